//! /etc/hostname, /etc/hosts, /etc/resolv.conf and /etc/machine-id of the sandbox. What cannot be written is a warning.

use std::fmt::Write as _;
use std::path::Path;

use cordium_proto::v1::PrepareRequest;

use crate::events::Events;
use crate::files;

const MAX_HOSTNAME: usize = 64;

pub fn write(request: &PrepareRequest, events: &Events) {
    let hostname = kernel_hostname(&request.hostname);
    let mut wanted = vec![("/etc/hosts", hosts(request))];
    if !hostname.is_empty() {
        wanted.push(("/etc/hostname", format!("{hostname}\n")));
        set_hostname(hostname, events);
    }
    if !request.nameservers.is_empty() {
        wanted.push(("/etc/resolv.conf", resolv_conf(&request.nameservers)));
    }
    if let Some(id) = machine_id(&request.workspace_uid)
        && has_no_machine_id()
    {
        wanted.push(("/etc/machine-id", id + "\n"));
    }
    for (path, content) in wanted {
        if let Err(error) = files::replace(Path::new(path), content.as_bytes(), 0o644) {
            events.warning(format!("writing {path}: {error}"));
        }
    }
}

/// The same at each start of a workspace, and no other's. Images come without one; an init would take that for the first
/// boot of a machine, at which somebody sits.
fn machine_id(workspace_uid: &str) -> Option<String> {
    let id: String = workspace_uid.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

fn has_no_machine_id() -> bool {
    let id = files::read_small(Path::new("/etc/machine-id")).ok().flatten().unwrap_or_default();
    matches!(id.trim_ascii(), b"" | b"uninitialized")
}

fn set_hostname(wanted: &str, events: &Events) {
    if nix::unistd::gethostname().is_ok_and(|current| current == *wanted) {
        return;
    }
    if let Err(error) = nix::unistd::sethostname(wanted) {
        events.warning(format!("setting the host name to `{wanted}`: {error}"));
    }
}

/// The whole name where the kernel takes it, else its first label.
fn kernel_hostname(hostname: &str) -> &str {
    let name =
        if hostname.len() <= MAX_HOSTNAME { hostname } else { hostname.split('.').next().unwrap_or("") };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.len() <= MAX_HOSTNAME && name.chars().all(plain) { name } else { "" }
}

fn hosts(request: &PrepareRequest) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let name = kernel_hostname(&request.hostname);
    match name.split_once('.') {
        _ if name.is_empty() => {}
        Some((short, _)) if !short.is_empty() => {
            let _ = writeln!(text, "127.0.1.1\t{name} {short}");
        }
        _ => {
            let _ = writeln!(text, "127.0.1.1\t{name}");
        }
    }
    for entry in &request.hosts {
        let words = std::iter::once(&entry.address).chain(&entry.names);
        if !entry.names.is_empty() && words.clone().all(|word| is_word(word)) {
            let _ = writeln!(text, "{}\t{}", entry.address, entry.names.join(" "));
        }
    }
    text
}

fn resolv_conf(nameservers: &[String]) -> String {
    let usable = nameservers.iter().filter(|server| is_word(server)).take(3);
    usable.fold(String::new(), |text, server| text + "nameserver " + server + "\n")
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordium_proto::v1::HostEntry;

    #[test]
    fn hosts_have_the_name_and_the_entries() {
        let host =
            |address: &str, name: &str| HostEntry { address: address.into(), names: vec![name.into()] };
        let request = PrepareRequest {
            hostname: "demo.cordium.local".into(),
            hosts: vec![
                host("10.0.0.1", "host.cordium.internal"),
                host("10.0.0.2", "two\nlines"),
                HostEntry::default(),
            ],
            ..PrepareRequest::default()
        };
        let text = hosts(&request);
        assert!(text.contains("127.0.1.1\tdemo.cordium.local demo\n"));
        assert!(text.ends_with("10.0.0.1\thost.cordium.internal\n"));
    }

    #[test]
    fn a_long_host_name_is_cut_at_its_first_label() {
        let long = format!("demo.{}", "x".repeat(80));
        assert_eq!(kernel_hostname(&long), "demo");
        assert_eq!(kernel_hostname("bad name"), "");
        assert_eq!(kernel_hostname(&"x".repeat(65)), "");
    }

    #[test]
    fn a_machine_id_is_the_workspaces_uid() {
        let id = machine_id("0198C0DE-0000-7000-8000-000000000001");
        assert_eq!(id.as_deref(), Some("0198c0de000070008000000000000001"));
        assert_eq!(machine_id("short"), None);
        assert_eq!(machine_id(&"x".repeat(32)), None);
    }

    #[test]
    fn resolvers_are_words() {
        let text = resolv_conf(&["100.127.255.253".into(), "a b".into()]);
        assert_eq!(text, "nameserver 100.127.255.253\n");
    }
}
