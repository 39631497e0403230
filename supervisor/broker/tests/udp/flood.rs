//! As many destinations as a sandbox can think of.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use cordium_broker::Protocol;

use super::{all, at, client, denials, echo, echoes, only, open};
use crate::QUICK;
use crate::support::{OUTSIDE, World, isolated};

/// Most flows of one workspace.
const FLOWS: usize = 1_024;

fn descriptors(world: &World) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", world.broker.pid())).unwrap().count()
}

/// In KiB.
fn memory(world: &World) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.broker.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// To this many ports of one address and over, as fast as they go.
fn spray(ports: std::ops::Range<u16>) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for port in ports {
        // Refusals of earlier ones come as errors.
        while socket.send_to(b"x", at(OUTSIDE, port)).is_err() {}
    }
}

/// What comes while the queue is full is lost, as anywhere; whoever asks again is heard.
fn passes_again() {
    let (start, socket) = (Instant::now(), client(OUTSIDE, 123));
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.send(b"x").unwrap();
    while socket.recv(&mut [0]).is_err() {
        assert!(start.elapsed() < QUICK);
        socket.send(b"x").unwrap();
    }
}

#[test]
fn ten_thousand_destinations_take_bounded_memory_and_descriptors() {
    isolated("udp::flood::ten_thousand_destinations_take_bounded_memory_and_descriptors", || {
        let world = World::new();
        let registered = world.register(all(), vec![]);
        echo(&world, OUTSIDE, 123);
        let first = world.sandbox.run(|| client(OUTSIDE, 123));
        echoes(&first, b"before");
        let (fds, kib) = (descriptors(&world), memory(&world));
        world.sandbox.run(|| spray(20_000..30_000));
        let start = Instant::now();
        while !denials(&world).iter().any(|denial| denial.rule == "max-flows") {
            assert!(start.elapsed() < QUICK, "{} descriptors", descriptors(&world));
            world.sandbox.run(|| spray(30_000..32_000));
            std::thread::sleep(Duration::from_millis(100));
        }
        let (more, grown) = (descriptors(&world) - fds, memory(&world).saturating_sub(kib));
        assert!((FLOWS - 64..=FLOWS).contains(&more), "{more}");
        assert!(grown < 32 << 10, "{grown} KiB");
        // What is open stays open.
        echoes(&first, b"during");
        // And gives its room back at once when a policy ends it.
        registered.set_policy(&only(vec![open("", "10.77.0.0/24", &[123, 124])])).unwrap();
        echo(&world, OUTSIDE, 124);
        echoes(&first, b"after");
        let start = Instant::now();
        while descriptors(&world) > fds + 64 {
            assert!(start.elapsed() < QUICK, "{}", descriptors(&world));
            std::thread::sleep(Duration::from_millis(20));
        }
        world.sandbox.run(|| echoes(&client(OUTSIDE, 124), b"after"));
    });
}

#[test]
fn refused_destinations_do_not_flood_the_list_or_the_broker() {
    isolated("udp::flood::refused_destinations_do_not_flood_the_list_or_the_broker", || {
        let world = World::new();
        let _registered = world.register(only(vec![open("", "10.77.0.0/24", &[123])]), vec![]);
        echo(&world, OUTSIDE, 123);
        let kib = memory(&world);
        world.sandbox.run(|| {
            crate::is_reset(OUTSIDE, 22);
            (0..10).for_each(|_| spray(20_000..20_100));
        });
        world.sandbox.run(passes_again);
        let all = denials(&world);
        let udp = all.iter().filter(|denial| denial.protocol == Protocol::Udp).count();
        assert!((1..=100).contains(&udp), "each destination once: {udp}");
        assert!(
            all.iter().any(|denial| denial.protocol == Protocol::Tcp),
            "what else was refused is still listed"
        );
        assert!(memory(&world).saturating_sub(kib) < 16 << 10);
    });
}
