//! `linux.seccomp` of an OCI spec as BPF programs, compiled by seccompiler.
//!
//! seccompiler knows one action for what matches and one for what does not, so a profile becomes a stack of filters, of which the
//! kernel takes the strictest answer: one that lets every listed call through and answers the default action to all others,
//! and above it one per action that restricts the calls listed under it.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde_json::{Value, json};

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("action {0:?} is not supported")]
    Action(LinuxSeccompAction),
    #[error("a listener is not supported")]
    Listener,
    #[error("more than {MAX_RULES} rules")]
    TooMany,
    #[error("the profile does not name this processor ({0})")]
    Arch(&'static str),
    #[error("no filter can be made for this processor: {0}")]
    Target(String),
    #[error("compiling the filter: {0}")]
    Compile(String),
}

const MAX_RULES: usize = 10_000;

/// The filters of a profile, to be loaded in this order.
pub(super) fn compile(profile: &LinuxSeccomp) -> Result<Vec<BpfProgram>, SeccompError> {
    if profile.listener_path().is_some() {
        return Err(SeccompError::Listener);
    }
    check_arch(profile.architectures().as_deref())?;
    let target =
        TargetArch::try_from(std::env::consts::ARCH).map_err(|e| SeccompError::Target(e.to_string()))?;
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let rules = rules(profile.syscalls().as_deref().unwrap_or_default(), &default, target)?;
    stack(&default, &rules).iter().map(|filter| compile_one(filter, target)).collect()
}

/// One rule in seccompiler's form, and the action it is listed under.
struct Rule {
    action: Value,
    rule: Value,
}

/// The filters as seccompiler's JSON.
fn stack(default: &Value, rules: &[Rule]) -> Vec<Value> {
    let allow = json!("allow");
    let filter = |matches: &Value, other: &Value, rules: Vec<&Value>| json!({"mismatch_action": other, "match_action": matches, "filter": rules});
    let mut filters = Vec::new();
    if *default != allow {
        filters.push(filter(&allow, default, rules.iter().map(|rule| &rule.rule).collect()));
    }
    let mut seen = vec![&allow];
    for Rule { action, .. } in rules {
        if seen.contains(&action) {
            continue;
        }
        seen.push(action);
        let listed = rules.iter().filter(|rule| rule.action == *action).map(|rule| &rule.rule).collect();
        filters.push(filter(action, &allow, listed));
    }
    filters
}

fn rules(calls: &[LinuxSyscall], default: &Value, target: TargetArch) -> Result<Vec<Rule>, SeccompError> {
    let mut rules = Vec::new();
    let mut unknown = HashSet::new();
    for call in calls {
        let action = action(call.action(), call.errno_ret())?;
        if action == *default {
            continue;
        }
        for name in call.names() {
            if unknown.contains(name) {
                continue;
            }
            // Profiles name the calls of every processor.
            if !is_known(name, target) {
                unknown.insert(name.clone());
                continue;
            }
            let alternatives = alternatives(call.args().as_deref().unwrap_or_default());
            rules.extend(alternatives.into_iter().map(|args| Rule {
                action: action.clone(),
                rule: if args.is_empty() {
                    json!({"syscall": name})
                } else {
                    json!({"syscall": name, "args": args})
                },
            }));
            if rules.len() > MAX_RULES {
                return Err(SeccompError::TooMany);
            }
        }
    }
    Ok(rules)
}

/// Conditions on different arguments must all hold; of several on the same argument one is enough.
fn alternatives(args: &[LinuxSeccompArg]) -> Vec<Vec<Value>> {
    let indices: HashSet<usize> = args.iter().map(LinuxSeccompArg::index).collect();
    if indices.len() == args.len() {
        return vec![args.iter().map(condition).collect()];
    }
    args.iter().map(|arg| vec![condition(arg)]).collect()
}

fn condition(arg: &LinuxSeccompArg) -> Value {
    let (op, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (json!("ne"), arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (json!("lt"), arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (json!("le"), arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (json!("eq"), arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (json!("ge"), arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (json!("gt"), arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (json!({"masked_eq": arg.value()}), arg.value_two().unwrap_or(0))
        }
    };
    json!({"index": arg.index(), "type": "qword", "op": op, "val": value})
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Value, SeccompError> {
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => json!("allow"),
        LinuxSeccompAction::ScmpActErrno => json!({"errno": errno.unwrap_or(libc::EPERM.unsigned_abs())}),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => json!("kill_thread"),
        LinuxSeccompAction::ScmpActKillProcess => json!("kill_process"),
        LinuxSeccompAction::ScmpActLog => json!("log"),
        LinuxSeccompAction::ScmpActTrap => json!("trap"),
        LinuxSeccompAction::ScmpActTrace => json!({"trace": errno.unwrap_or(0)}),
        LinuxSeccompAction::ScmpActNotify => return Err(SeccompError::Action(action)),
    })
}

/// A filter is for one processor; seccompiler kills what comes from another one.
fn check_arch(listed: Option<&[Arch]>) -> Result<(), SeccompError> {
    let (name, own) = match std::env::consts::ARCH {
        "aarch64" => ("aarch64", Arch::ScmpArchAarch64),
        "riscv64" => ("riscv64", Arch::ScmpArchRiscv64),
        _ => ("x86_64", Arch::ScmpArchX86_64),
    };
    match listed {
        Some(listed) if !listed.is_empty() && !listed.contains(&own) => Err(SeccompError::Arch(name)),
        _ => Ok(()),
    }
}

fn is_known(name: &str, target: TargetArch) -> bool {
    let probe = json!({"mismatch_action": "allow", "match_action": "trap", "filter": [{"syscall": name}]});
    compile_one(&probe, target).is_ok()
}

fn compile_one(filter: &Value, target: TargetArch) -> Result<BpfProgram, SeccompError> {
    let compile = |e: &dyn std::fmt::Display| SeccompError::Compile(e.to_string());
    let named = json!({"container": filter}).to_string();
    let mut programs = compile_from_json(named.as_bytes(), target).map_err(|e| compile(&e))?;
    programs.remove("container").ok_or_else(|| compile(&"no program came out"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn profile(text: &str) -> LinuxSeccomp {
        serde_json::from_str(text).unwrap()
    }

    fn filters(text: &str) -> Vec<Value> {
        let profile = profile(text);
        let target = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        let default = action(profile.default_action(), profile.default_errno_ret()).unwrap();
        let rules = rules(profile.syscalls().as_deref().unwrap_or_default(), &default, target).unwrap();
        stack(&default, &rules)
    }

    #[test]
    fn an_allow_list_is_one_filter() {
        let filters = filters(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
                "syscalls":[{"names":["read","write","no_such_call"],"action":"SCMP_ACT_ALLOW"}]}"#,
        );
        assert_eq!(filters.len(), 1);
        assert_eq!(filters[0]["mismatch_action"], json!({"errno": 38}));
        assert_eq!(filters[0]["filter"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn calls_of_another_action_pass_the_first_filter_and_meet_their_own() {
        let filters = filters(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
                {"names":["read"],"action":"SCMP_ACT_ALLOW"},
                {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#,
        );
        assert_eq!(filters.len(), 2);
        assert_eq!(filters[0]["filter"].as_array().unwrap().len(), 2);
        assert_eq!(filters[1]["match_action"], json!({"errno": 38}));
        assert_eq!(filters[1]["mismatch_action"], json!("allow"));
    }

    #[test]
    fn a_deny_list_has_no_filter_that_answers_the_default() {
        let filters = filters(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getcwd"],"action":"SCMP_ACT_ERRNO"}]}"#,
        );
        assert_eq!(filters.len(), 1);
        assert_eq!(filters[0]["match_action"], json!({"errno": 1}));
    }

    #[test]
    fn conditions_on_one_argument_are_alternatives() {
        let filters = filters(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#,
        );
        assert_eq!(filters[0]["filter"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn masks_and_values_are_the_specs() {
        let filters = filters(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        );
        let arg = &filters[0]["filter"][0]["args"][0];
        assert_eq!(arg["op"], json!({"masked_eq": 2_114_060_288_u64}));
        assert_eq!(arg["val"], json!(0));
    }

    #[test]
    fn what_cannot_be_expressed_is_refused() {
        let listener = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x"}"#);
        assert!(matches!(compile(&listener), Err(SeccompError::Listener)));
        let notify = profile(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        );
        assert!(matches!(compile(&notify), Err(SeccompError::Action(_))));
        let other = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_S390"]}"#);
        assert!(matches!(compile(&other), Err(SeccompError::Arch(_))));
    }

    #[test]
    fn a_real_profile_compiles() {
        let text = include_str!("../../profiles/sandbox.json");
        assert!(!compile(&profile(text)).unwrap().is_empty());
    }
}
