//! `cordium-agent git-credential`: hands git the credential of one invocation.
//!
//! The secret travels in the environment of that one git process and its children. It is never an argument,
//! never in a file, and is only told for the host it was given for: a redirect or a submodule elsewhere gets none.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::url::Access;

const INSTALLED: &str = "/run/cordium/bin/cordium-agent";
const SCHEME: &str = "CORDIUM_GIT_SCHEME";
const HOST: &str = "CORDIUM_GIT_HOST";
const USERNAME: &str = "CORDIUM_GIT_USERNAME";
const PASSWORD: &str = "CORDIUM_GIT_PASSWORD";
/// Of a request by git.
const MAX_LINES: usize = 64;

/// The git setting that makes git ask us.
pub fn helper_setting() -> String {
    let installed = Path::new(INSTALLED);
    let program = if installed.exists() {
        installed.to_path_buf()
    } else {
        std::env::current_exe().unwrap_or_else(|_| PathBuf::from(INSTALLED))
    };
    format!("credential.helper={} git-credential", program.display())
}

/// What the helper reads.
pub fn variables(access: &Access) -> [(&'static str, &str); 4] {
    [
        (SCHEME, access.scheme.as_str()),
        (HOST, access.host.as_str()),
        (USERNAME, access.username.as_str()),
        (PASSWORD, access.password.as_str()),
    ]
}

/// The subcommand. `store` and `erase` have nothing to do.
pub fn helper_main(operation: Option<&str>) -> ExitCode {
    match operation {
        Some("get") => {}
        Some("store" | "erase") => return ExitCode::SUCCESS,
        _ => {
            eprintln!("usage: cordium-agent git-credential get|store|erase");
            return ExitCode::from(2);
        }
    }
    let variable = |name| std::env::var(name).unwrap_or_default();
    let access = Access {
        scheme: variable(SCHEME),
        host: variable(HOST),
        username: variable(USERNAME),
        password: variable(PASSWORD),
    };
    match io::stdout().write_all(answer(&access, io::stdin().lock()).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(access: &Access, request: impl BufRead) -> String {
    let (mut scheme, mut host, mut asked_user) = (String::new(), String::new(), String::new());
    for line in request.lines().take(MAX_LINES).map_while(Result::ok) {
        match line.split_once('=') {
            Some(("protocol", value)) => scheme = value.to_owned(),
            Some(("host", value)) => host = value.to_ascii_lowercase(),
            Some(("username", value)) => asked_user = value.to_owned(),
            _ => {}
        }
    }
    if host.is_empty() || host != access.host || scheme != access.scheme {
        return String::new();
    }
    let username = match (access.username.as_str(), asked_user.as_str()) {
        // Most hosts take any name with a token.
        ("", "") => "git",
        ("", asked) => asked,
        (own, _) => own,
    };
    format!("username={username}\npassword={}\n", access.password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(username: &str) -> Access {
        Access {
            scheme: "https".into(),
            host: "h:1".into(),
            username: username.into(),
            password: "s3".into(),
        }
    }

    #[test]
    fn only_the_host_it_was_given_for_gets_it() {
        let ask = |request: &str| answer(&access("me"), request.as_bytes());
        assert_eq!(ask("protocol=https\nhost=h:1\n\n"), "username=me\npassword=s3\n");
        assert_eq!(ask("protocol=http\nhost=h:1\n"), "");
        assert_eq!(ask("protocol=https\nhost=h\n"), "");
        assert_eq!(ask("protocol=https\nhost=h:1.evil\n"), "");
        assert_eq!(ask(""), "");
        assert_eq!(
            answer(&Access { host: String::new(), ..access("") }, "protocol=https\nhost=\n".as_bytes()),
            ""
        );
    }

    #[test]
    fn a_token_needs_no_name() {
        assert_eq!(
            answer(&access(""), "protocol=https\nhost=h:1\n".as_bytes()),
            "username=git\npassword=s3\n"
        );
        let asked = "protocol=https\nhost=h:1\nusername=bot\n";
        assert_eq!(answer(&access(""), asked.as_bytes()), "username=bot\npassword=s3\n");
    }
}
