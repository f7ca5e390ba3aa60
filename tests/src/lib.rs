//! The harness: the real `weir` binary, origins that answer or record, and real peers where the machine has them.
//!
//! Nothing here sleeps to wait for something: ports are 0 and read back from the log, readiness and generations are asked
//! for until they are there, with a limit that fails the test.

#![allow(
    clippy::large_futures,
    clippy::panic,
    clippy::too_many_lines,
    reason = "tests may be generous with memory, must fail loudly, and read best in one piece"
)]

pub mod app;
pub mod catalogue;
pub mod clients;
pub mod container;
pub mod dns;
pub mod echo;
pub mod envoy;
pub mod explained;
pub mod frames;
pub mod kubelet;
pub mod load;
pub mod mesh;
pub mod mixed;
pub mod nowhere;
pub mod origin;
pub mod peers;
pub mod pod;
pub mod programs;
pub mod quick;
pub mod raw;
pub mod script;
pub mod service;
pub mod session;
pub mod two;
pub mod weir;
pub mod wire;
pub mod witness;
pub mod workload;

pub use libtest_mimic::{Failed, Trial};
pub use origin::{Origin, Recorder};
pub use weir::Weir;

/// What a test returns.
pub type Outcome = Result<(), Failed>;

/// Any error fails the test.
pub type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Held shared by ordinary tests and alone by those that measure, so that nothing else runs beside a measurement.
static MACHINE: std::sync::RwLock<()> = std::sync::RwLock::new(());

/// A test that runs on a small runtime of its own.
pub fn test<F, Fut>(name: &str, body: F) -> Trial
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result>,
{
    let called = name.to_owned();
    Trial::test(name.to_owned(), move || {
        let _shared = MACHINE.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        run(&called, body)
    })
}

/// What [`alone_first`] tells tests that have the machine to themselves by.
const ALONE: &str = "alone";

/// Tests that have the machine to themselves before the others: between others, each would wait for them to end, and the
/// others for it.
pub fn alone_first(mut trials: Vec<Trial>) -> Vec<Trial> {
    trials.sort_by_key(|trial| trial.kind() != ALONE);
    trials
}

/// A test that measures time: it has the machine to itself, as far as this suite is concerned.
pub fn test_alone<F, Fut>(name: &str, body: F) -> Trial
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result>,
{
    let called = name.to_owned();
    Trial::test(name.to_owned(), move || {
        let _alone = MACHINE.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        run(&called, body)
    })
    .with_kind(ALONE)
}

/// A test that takes longer says so.
const LONG: std::time::Duration = std::time::Duration::from_secs(5);

fn run<F, Fut>(name: &str, body: F) -> Outcome
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (limit, began) = (limit(), std::time::Instant::now());
    let ended = runtime.block_on(async { tokio::time::timeout(limit, body()).await });
    runtime.shutdown_background();
    if began.elapsed() > LONG {
        eprintln!("{name}: {:.1} s", began.elapsed().as_secs_f64());
    }
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failed::from(error.to_string())),
        Err(_) => Err(Failed::from(format!("not done after {limit:?}"))),
    }
}

/// A test that needs programs or Python packages of the machine; ignored, by name, where they are missing.
pub fn test_with<F, Fut>(name: &str, needs: &[peers::Peer], body: F) -> Trial
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result>,
{
    match skipped(name, needs) {
        None => test(name, body),
        Some(name) => test(&name, body).with_ignored_flag(true),
    }
}

/// [`test_with`] for a test that has the machine to itself.
pub fn test_alone_with<F, Fut>(name: &str, needs: &[peers::Peer], body: F) -> Trial
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result>,
{
    match skipped(name, needs) {
        None => test_alone(name, body),
        Some(name) => test_alone(&name, body).with_ignored_flag(true),
    }
}

/// What a test is called that lacks something.
fn skipped(name: &str, needs: &[peers::Peer]) -> Option<String> {
    let missing: Vec<&str> = needs.iter().filter(|peer| !peer.is_there()).map(|peer| peer.name()).collect();
    (!missing.is_empty()).then(|| format!("{name} (skipped: no {})", missing.join(", ")))
}

/// Whether the long form of a test was asked for (`WEIR_SOAK=1`).
pub fn soak() -> bool {
    std::env::var_os("WEIR_SOAK").is_some()
}

/// No test takes longer.
fn limit() -> std::time::Duration {
    std::time::Duration::from_secs(if soak() { 1200 } else { 240 })
}

/// Lets this process have so many files open, where the machine allows it.
///
/// # Errors
/// It does not.
pub fn allow_files(count: usize) -> Result {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid struct and keep no pointer to it.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if done && limit.rlim_max >= count as u64 { Ok(()) } else { Err(format!("{count} open files are not allowed").into()) }
}

/// Asks until the answer is yes, for at most ten seconds.
///
/// # Errors
/// `what` did not come about.
pub async fn until<F, Fut>(what: &str, mut ask: F) -> Result
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while !ask().await {
        if tokio::time::Instant::now() > limit {
            return Err(format!("not within ten seconds: {what}").into());
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Fails the test with the two values unless they are equal.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr $(, $($context:tt)+)?) => {{
        match (&$left, &$right) {
            (left, right) if left != right => {
                let context = String::new() $(+ &format!($($context)+))?;
                return Err(format!("{}:{}: {context}\n  got    {left:?}\n  wanted {right:?}", file!(), line!()).into());
            }
            _ => {}
        }
    }};
}

/// Fails the test unless the condition holds.
#[macro_export]
macro_rules! holds {
    ($condition:expr $(, $($context:tt)+)?) => {{
        if !$condition {
            let context = String::new() $(+ &format!($($context)+))?;
            return Err(format!("{}:{}: {} does not hold: {context}", file!(), line!(), stringify!($condition)).into());
        }
    }};
}
