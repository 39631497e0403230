//! Runs the cases of one group against one fixture, and tears it down when the last has ended.
//!
//! Test targets have no built-in harness, because a static fixture would never be dropped. Without `CORDIUM_E2E=1`,
//! which `cargo xtask test` sets after the set-up, every case is reported as ignored, with the reason.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Result, anyhow};
use libtest_mimic::{Arguments, Completion, Trial};
use tokio::runtime::{Handle, Runtime};

/// No case may take longer.
const CASE: Duration = Duration::from_secs(300);

type Case<C> = Box<dyn Fn(Arc<C>) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

pub struct Suite<C> {
    group: &'static str,
    cases: Vec<(&'static str, Case<C>)>,
    threads: Option<usize>,
}

/// A fixture that cleans up after itself and says what it could not.
pub trait TearDown: Send + Sync + 'static {
    fn tear_down(self: Arc<Self>) -> impl Future<Output = Result<()>> + Send;
}

/// Ends a case that cannot be tried on this machine. It is counted as ignored, with the reason.
pub fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(anyhow!(Skip(reason.into())))
}

#[derive(Debug)]
struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}
impl std::error::Error for Skip {}

impl<C: TearDown> Suite<C> {
    pub fn new(group: &'static str) -> Self {
        Self { group, cases: Vec::new(), threads: None }
    }

    /// Adds a case.
    pub fn case<F, R>(mut self, name: &'static str, run: F) -> Self
    where
        F: Fn(Arc<C>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<()>> + Send + 'static,
    {
        self.cases.push((name, Box::new(move |fixture| Box::pin(run(fixture)))));
        self
    }

    /// Cases change what others need: no two at once, whatever the command line says.
    pub fn one_at_a_time(mut self) -> Self {
        self.threads = Some(1);
        self
    }

    /// Sets up, runs the cases that the command line asks for, tears down.
    pub fn run<F, R>(self, set_up: F) -> ExitCode
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<C>>,
    {
        let mut arguments = Arguments::from_args();
        arguments.test_threads = self.threads.or(arguments.test_threads);
        if std::env::var_os("CORDIUM_E2E").is_none_or(|value| value != "1") {
            eprintln!(
                "\nend-to-end tests need a set-up machine: run `cargo xtask test --e2e {}`, or `cargo xtask setup` \
                 once and then `CORDIUM_E2E=1 cargo test -p cordium-tests --test {0}`",
                self.group
            );
            let trials = self
                .cases
                .iter()
                .map(|(name, _)| Trial::test(*name, || Ok(())).with_ignored_flag(true))
                .collect();
            return libtest_mimic::run(
                &Arguments { ignored: false, include_ignored: false, ..arguments },
                trials,
            )
            .exit_code();
        }
        match self.run_here(&arguments, set_up) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("\n{error:#}\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored;");
                ExitCode::from(101)
            }
        }
    }

    fn run_here<F, R>(self, arguments: &Arguments, set_up: F) -> Result<ExitCode>
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<C>>,
    {
        if arguments.list {
            let trials = self.cases.into_iter().map(|(name, _)| Trial::test(name, || Ok(()))).collect();
            return Ok(libtest_mimic::run(arguments, trials).exit_code());
        }
        let runtime = Runtime::new()?;
        let fixture = Arc::new(runtime.block_on(set_up()).map_err(|error| error.context("setting up"))?);
        let skipped = Arc::new(Mutex::new(Vec::new()));
        let trials = self
            .cases
            .into_iter()
            .map(|(name, case)| {
                let (fixture, handle) = (Arc::clone(&fixture), runtime.handle().clone());
                let skipped = Arc::clone(&skipped);
                Trial::ignorable_test(name, move || complete(&handle, name, case(fixture), &skipped))
            })
            .collect();
        let conclusion = libtest_mimic::run(arguments, trials);
        for (name, reason) in skipped.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            println!("skipped {name}: {reason}");
        }
        if let Err(error) = runtime.block_on(fixture.tear_down()) {
            eprintln!("\ntearing down: {error:#}\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored;");
            return Ok(ExitCode::from(101));
        }
        Ok(conclusion.exit_code())
    }
}

fn complete(
    handle: &Handle,
    name: &'static str,
    case: Pin<Box<dyn Future<Output = Result<()>> + Send>>,
    skipped: &Mutex<Vec<(&'static str, String)>>,
) -> Result<Completion, libtest_mimic::Failed> {
    let outcome = handle.block_on(async { tokio::time::timeout(CASE, case).await });
    match outcome {
        Err(_) => Err(format!("took longer than {CASE:?}").into()),
        Ok(Ok(())) => Ok(Completion::Completed),
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => {
                let mut skipped = skipped.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                skipped.push((name, reason.clone()));
                Ok(Completion::ignored_with(reason.clone()))
            }
            None => Err(format!("{error:#}").into()),
        },
    }
}
