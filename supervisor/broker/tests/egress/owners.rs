//! Who is behind a connection that is refused, with a supervisor by hand.

use std::io::Read;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use cordium_broker::{Denial, GATEWAY_V4, Owner, Question, questions, watch_denials};
use cordium_egress::Policy;

use crate::is_reset;
use crate::support::{OUTSIDE, World, isolated};

/// A supervisor that answers each question, or none; the questions come back.
fn supervisor(world: &World, answers: bool) -> mpsc::Receiver<Question> {
    let (socket, (sender, receiver)) = (world.socket(), mpsc::channel());
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut asked = questions(&socket).await.unwrap();
            ready.send(()).unwrap();
            while let Ok(Some(question)) = asked.next().await {
                if answers {
                    let program = "/bin/asks".to_owned();
                    asked.answer(question.id, Owner { pid: 7, program, task: "t".into() }).await.unwrap();
                }
                sender.send(question).unwrap();
            }
        });
    });
    is_ready.recv().unwrap();
    receiver
}

fn denials(world: &World, count: usize) -> Vec<Denial> {
    let socket = world.socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut denials = watch_denials(&socket, "ws-test", 0, true).await.unwrap();
        let mut found = Vec::new();
        while found.len() < count {
            let next = tokio::time::timeout(Duration::from_secs(20), denials.next());
            found.push(next.await.unwrap().unwrap().unwrap());
        }
        found
    })
}

fn question_for_a_name() -> Vec<u8> {
    let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend(b"\x03who\x07example\x00\x00\x01\x00\x01");
    packet
}

#[test]
fn the_supervisor_is_asked_before_the_refusal_and_its_answer_is_in_the_denial() {
    isolated(
        "egress::owners::the_supervisor_is_asked_before_the_refusal_and_its_answer_is_in_the_denial",
        || {
            let world = World::new();
            let _registered = world.register(Policy::default(), vec![]);
            // The broker has read the request when it asks; until then nobody is asked.
            let asked = supervisor(&world, true);
            let (mut found, mut locals) = (None, Vec::new());
            while found.is_none() && locals.len() < 200 {
                let local = world.sandbox.run(|| {
                    // Reset before the client has seen that it was accepted, perhaps.
                    let mut stream = TcpStream::connect((OUTSIDE, 443)).ok()?;
                    let local = stream.local_addr().ok()?;
                    stream.read(&mut [0]).unwrap_err();
                    Some(local)
                });
                locals.push(local);
                found = asked.recv_timeout(Duration::from_millis(100)).ok();
            }
            let question = found.expect("a question");
            assert!(locals.contains(&Some(question.local)), "{question:?} {locals:?}");
            assert_eq!((question.workspace.as_str(), question.udp), ("ws-test", false));
            assert_eq!(question.remote, Some(SocketAddr::new(OUTSIDE.parse().unwrap(), 443)));
            while asked.try_recv().is_ok() {}
            let local = world.sandbox.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect((GATEWAY_V4, 53)).unwrap();
                socket.send(&question_for_a_name()).unwrap();
                socket.recv(&mut [0; 512]).unwrap();
                socket.local_addr().unwrap()
            });
            let question = asked.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!((question.local, question.udp, question.remote), (local, true, None));
            let known = |denial: &Denial| {
                denial.owner.as_ref().is_some_and(|owner| owner.program == "/bin/asks" && owner.pid == 7)
            };
            // The first ones may have come before the broker knew whom to ask.
            let all = denials(&world, locals.len() + 1);
            assert!(all[all.len() - 2..].iter().all(known), "{all:?}");
        },
    );
}

#[test]
fn a_supervisor_that_does_not_answer_delays_nothing_for_long() {
    isolated("egress::owners::a_supervisor_that_does_not_answer_delays_nothing_for_long", || {
        let world = World::new();
        let registered = world.register(Policy::default(), vec![]);
        let asked = supervisor(&world, false);
        world.sandbox.run(|| (0..100).for_each(|_| is_reset(OUTSIDE, 443)));
        let all = denials(&world, 100);
        assert!(all.iter().all(|denial| denial.owner.is_none()), "{all:?}");
        // Not of each in a flood.
        drop(registered);
        let questions = std::iter::from_fn(|| asked.try_recv().ok()).count();
        assert!(questions < 100, "{questions}");
    });
}
