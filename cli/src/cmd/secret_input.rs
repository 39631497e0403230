//! Where a secret's value comes from: never from the arguments if it can be helped, for `ps` shows those.

use std::{
    env,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};

use bytes::Bytes;

use crate::{
    error::{CliError, CliResult, Doing as _},
    output, tty,
};

const MAX_SECRET: u64 = 1 << 20;

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
pub struct From {
    /// Take the value from a file, byte for byte (`-` reads standard input)
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Take the value from an environment variable
    #[arg(long, value_name = "VAR")]
    from_env: Option<String>,
    /// The value itself; other users of this machine may see it in the list of processes
    #[arg(long, value_name = "VALUE")]
    value: Option<String>,
    /// `-`: take the value from standard input (one line end at its end is left out)
    #[arg(value_name = "-", value_parser = ["-"])]
    stdin: Option<String>,
}

impl From {
    pub fn read(&self) -> CliResult<Bytes> {
        let data = if let Some(value) = &self.value {
            output::warning(
                "--value shows the secret to every user of this machine; better: --from-env or -",
            );
            value.clone().into_bytes()
        } else if let Some(key) = &self.from_env {
            env::var_os(key).map(OsStringExt::into_vec).ok_or_else(|| {
                CliError::usage(format!("{key} is not set")).hint(format!("export {key} first"))
            })?
        } else if let Some(path) = self.from_file.as_ref().filter(|p| p.as_os_str() != "-") {
            limited(File::open(path).doing(format!("open {}", path.display()))?, &path.display().to_string())?
        } else {
            if tty::stdin_is_terminal() {
                output::note("type the value, then Ctrl-D on a new line");
            }
            let mut data = limited(io::stdin().lock(), "standard input")?;
            if self.stdin.is_some() && data.last() == Some(&b'\n') {
                data.pop();
            }
            data
        };
        if data.is_empty() {
            return Err(CliError::usage("the secret's value is empty"));
        }
        Ok(Bytes::from(data))
    }
}

fn limited(from: impl Read, what: &str) -> CliResult<Vec<u8>> {
    let mut data = Vec::new();
    from.take(MAX_SECRET + 1).read_to_end(&mut data).doing(format!("read {what}"))?;
    if data.len() as u64 > MAX_SECRET {
        return Err(CliError::usage(format!(
            "{what} is larger than {MAX_SECRET} bytes, the most a secret may have"
        )));
    }
    Ok(data)
}
