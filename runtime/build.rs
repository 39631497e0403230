//! Compiles the sandbox's seccomp profile (`profiles/*.json`, in the OCI form) to programs for the target's processor.
//!
//! ```text
//!  arguments.json  deny rules with arguments, one program for each errno ┐
//!  sandbox.json    the allow-list                                        ┴▶ $OUT_DIR/seccomp.rs
//! ```
//! seccompiler knows one action for what matches and one for what does not, hence several programs. A profile that cannot
//! be expressed this way stops the build.

use std::{collections::BTreeMap, error::Error, fmt::Write as _, path::PathBuf};

use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    /// Why; for the reader.
    #[serde(default, rename = "comment")]
    _comment: String,
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Argument {
    index: u8,
    value: u32,
    op: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH")?;
    let arch =
        TargetArch::try_from(arch.as_str()).map_err(|e| format!("no seccomp filter for {arch}: {e}"))?;
    let mut programs = denials(&read("arguments.json")?, arch)?;
    programs.push(allow_list(&read("sandbox.json")?, arch)?);
    let mut text = String::from("const FILTERS: &[&[sock_filter]] = &[\n");
    for program in &programs {
        text.push_str("    &[\n");
        for line in program {
            let (code, jt, jf, k) = (line.code, line.jt, line.jf, line.k);
            writeln!(text, "        sock_filter {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},")?;
        }
        text.push_str("    ],\n");
    }
    text.push_str("];\n");
    std::fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("seccomp.rs"), text)?;
    Ok(())
}

fn read(name: &str) -> Result<Profile, Box<dyn Error>> {
    let path = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("profiles").join(name);
    println!("cargo::rerun-if-changed={}", path.display());
    let profile = serde_json::from_str(&std::fs::read_to_string(&path)?);
    profile.map_err(|e| format!("{}: {e}", path.display()).into())
}

/// What is not listed answers the profile's errno.
fn allow_list(profile: &Profile, arch: TargetArch) -> Result<BpfProgram, Box<dyn Error>> {
    let plain = |rule: &Rule| rule.action == "SCMP_ACT_ALLOW" && rule.args.is_empty();
    if profile.default_action != "SCMP_ACT_ERRNO" || !profile.syscalls.iter().all(plain) {
        return Err("sandbox.json may hold nothing but calls to be allowed whatever their arguments".into());
    }
    let errno = profile.default_errno_ret.ok_or("sandbox.json has no defaultErrnoRet")?;
    let mut allowed: Vec<&str> =
        profile.syscalls.iter().flat_map(|rule| &rule.names).map(String::as_str).collect();
    loop {
        let rules: Vec<Value> = allowed.iter().map(|name| json!({"syscall": name})).collect();
        let filter = json!({"mismatch_action": {"errno": errno}, "match_action": "allow", "filter": rules});
        match compile(&filter, arch) {
            Ok(program) => return Ok(program),
            // A call that this processor does not have. seccompiler keeps the error's type to itself.
            Err(error) => match allowed.iter().position(|name| Some(*name) == unknown_call(&error)) {
                Some(index) => drop(allowed.remove(index)),
                None => return Err(error.into()),
            },
        }
    }
}

/// One program for each errno; what matches no rule goes on to the next program.
fn denials(profile: &Profile, arch: TargetArch) -> Result<Vec<BpfProgram>, Box<dyn Error>> {
    if profile.default_action != "SCMP_ACT_ALLOW" {
        return Err("arguments.json must allow what it does not list".into());
    }
    let mut by_errno: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
    for rule in &profile.syscalls {
        let errno = rule.errno_ret.filter(|_| rule.action == "SCMP_ACT_ERRNO" && !rule.args.is_empty());
        let errno = errno.ok_or("arguments.json may hold nothing but denials with an errno and arguments")?;
        let args = rule.args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        let rules = rule.names.iter().map(|name| json!({"syscall": name, "args": args}));
        by_errno.entry(errno).or_default().extend(rules);
    }
    let programs = by_errno.into_iter().map(|(errno, rules)| {
        let filter = json!({"mismatch_action": "allow", "match_action": {"errno": errno}, "filter": rules});
        compile(&filter, arch).map_err(Into::into)
    });
    programs.collect()
}

/// The kernel looks at the lower half of these arguments only.
fn condition(argument: &Argument) -> Result<Value, String> {
    let op = match argument.op.as_str() {
        "SCMP_CMP_EQ" => "eq",
        "SCMP_CMP_NE" => "ne",
        other => return Err(format!("arguments.json: {other} is not supported")),
    };
    Ok(json!({"index": argument.index, "type": "dword", "op": op, "val": argument.value}))
}

fn compile(filter: &Value, arch: TargetArch) -> Result<BpfProgram, String> {
    let filters = json!({"filter": filter}).to_string();
    let mut programs = compile_from_json(filters.as_bytes(), arch).map_err(|e| e.to_string())?;
    programs.remove("filter").ok_or_else(|| "no program came out".to_owned())
}

fn unknown_call(error: &str) -> Option<&str> {
    error.split_once("Invalid syscall name: ")?.1.split(' ').next()
}
