//! Whose socket it is that asks for what is refused.
//!
//! Asked while the connection stands: a moment later it is reset, and nothing leads from it to a process any more.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use cordium_proto::v1::{FindOwnerRequest, FindOwnerResponse};
use tokio::sync::Semaphore;
use tonic::Status;

use super::diag;
use super::programs::Processes;
use crate::task_sessions::TaskSessions;

/// Looks at a time; each is of a few milliseconds, and a caller does not wait for more.
const LOOKS: usize = 4;
const MAX_PROGRAM: usize = 256;

/// How far up a process's ancestors its task is looked for.
const GENERATIONS: usize = 64;

pub struct Owners {
    room: Arc<Semaphore>,
}

impl Default for Owners {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(LOOKS)) }
    }
}

#[derive(Clone, Copy)]
enum Sought {
    Connection(SocketAddr, SocketAddr),
    Datagram(SocketAddr),
}

impl Owners {
    pub async fn find(
        &self,
        request: &FindOwnerRequest,
        tasks: &Arc<TaskSessions>,
    ) -> Result<FindOwnerResponse, Status> {
        let sought = read(request)?;
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            return Err(Status::resource_exhausted(format!("{LOOKS} sockets are being looked for already")));
        };
        let tasks = Arc::clone(tasks);
        let looked = tokio::task::spawn_blocking(move || {
            let _room = room;
            look(sought, &tasks)
        });
        let found =
            looked.await.map_err(|error| Status::internal(format!("looking for a socket: {error}")))?;
        found.map_err(|error| Status::internal(format!("asking the kernel whose socket it is: {error}")))
    }
}

fn read(request: &FindOwnerRequest) -> Result<Sought, Status> {
    let address = |field: &str, text: &str| {
        text.parse::<SocketAddr>()
            .map_err(|_| Status::invalid_argument(format!("{field} is no address with a port")))
    };
    let local = address("local", &request.local)?;
    match request.protocol.as_str() {
        "tcp" => {
            let remote = address("remote", &request.remote)?;
            if local.is_ipv4() != remote.is_ipv4() {
                return Err(Status::invalid_argument("local and remote are of two families"));
            }
            Ok(Sought::Connection(local, remote))
        }
        "udp" => Ok(Sought::Datagram(local)),
        _ => Err(Status::invalid_argument("protocol is neither tcp nor udp")),
    }
}

fn look(sought: Sought, tasks: &TaskSessions) -> io::Result<FindOwnerResponse> {
    let inode = match sought {
        Sought::Connection(local, remote) => diag::connection(local, remote)?,
        Sought::Datagram(local) => diag::datagram(local)?,
    };
    let Some(inode) = inode else { return Ok(FindOwnerResponse::default()) };
    let processes = Processes::open()?;
    let Some(pid) = processes.holder(inode) else { return Ok(FindOwnerResponse::default()) };
    let mut program = processes.executable(pid);
    if program.is_empty() {
        program = processes.program(pid).map(|program| program.name).unwrap_or_default();
    }
    program.truncate(program.floor_char_boundary(MAX_PROGRAM));
    let task = task(pid.cast_signed(), |pid| processes.kin(pid).map(|kin| (kin.parent, kin.session)), tasks);
    Ok(FindOwnerResponse { pid, program, task: task.unwrap_or_default() })
}

/// The task in whose session the process is, or one of its ancestors. Pure.
fn task(mut pid: i32, kin: impl Fn(i32) -> Option<(i32, i32)>, tasks: &TaskSessions) -> Option<String> {
    for _ in 0..GENERATIONS {
        let (parent, session) = kin(pid)?;
        if let Some(task) = tasks.name(session) {
            return Some(task);
        }
        if parent <= 1 {
            return None;
        }
        pid = parent;
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_process_belongs_to_the_task_of_its_session_or_of_an_ancestor() {
        let tasks = TaskSessions::default();
        tasks.note(10, "build");
        // 10 leads the task; 11 is in its session; 12 has left it; 20 has nothing to do with it; 30 has come to PID 1.
        let kin = |pid: i32| match pid {
            10 => Some((1, 10)),
            11 => Some((10, 10)),
            12 => Some((11, 12)),
            20 => Some((1, 20)),
            30 => Some((1, 10)),
            40 => Some((40, 40)),
            _ => None,
        };
        for (pid, expected) in
            [(10, true), (11, true), (12, true), (20, false), (30, true), (40, false), (50, false)]
        {
            assert_eq!(task(pid, kin, &tasks).is_some(), expected, "{pid}");
        }
    }

    #[tokio::test]
    async fn the_owner_of_a_connection_is_told_and_nobody_where_there_is_none() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = server.local_addr().unwrap().to_string();
        let client = TcpStream::connect(&remote).unwrap();
        let local = client.local_addr().unwrap().to_string();
        let (owners, tasks) = (Owners::default(), Arc::new(TaskSessions::default()));
        tasks.note(nix::unistd::getsid(None).unwrap().as_raw(), "tests");
        let request = FindOwnerRequest { protocol: "tcp".into(), local, remote };
        let found = owners.find(&request, &tasks).await.unwrap();
        let executable = std::env::current_exe().unwrap();
        assert_eq!((found.pid, found.program.as_str()), (std::process::id(), executable.to_str().unwrap()));
        assert_eq!(found.task, "tests");
        drop(client);
        drop(server);
        assert_eq!(owners.find(&request, &tasks).await.unwrap().pid, 0);
        for bad in [
            FindOwnerRequest { protocol: "icmp".into(), ..request.clone() },
            FindOwnerRequest { local: "here".into(), ..request.clone() },
            FindOwnerRequest { remote: "[::1]:80".into(), ..request.clone() },
        ] {
            assert_eq!(owners.find(&bad, &tasks).await.unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
