//! Panics: a fault in ham4db ends one task or one request, and never the process.
//!
//! A panic unwinds its task. The task's owner catches it with [`catch`], and starts a loop again with [`keep_running`]. The hook
//! counts each panic, also those of tasks that nothing watches, and logs where it happened.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// The pause before a loop starts again; it doubles with each panic.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After this time without a panic the pause is short again.
const STABLE_AFTER: Duration = Duration::from_mins(1);
/// Limit for the characters of a panic's message that are logged.
const MESSAGE_LENGTH: usize = 300;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics there were since the process started.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Makes panics count and appear in the log.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let (place, message) = (place(info), message(info));
        error!("panic at {place}: {message}");
    }));
}

/// File, line and column.
fn place(info: &PanicHookInfo<'_>) -> String {
    info.location()
        .map_or_else(|| "an unknown place".to_owned(), ToString::to_string)
}

/// The message of a panic, bounded and in one line.
fn message(info: &PanicHookInfo<'_>) -> String {
    let text = info.payload_as_str().unwrap_or("no message");
    let characters = text.chars().take(MESSAGE_LENGTH);
    characters.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Runs `work` and catches its panic. `None` after a panic, which the hook has logged.
///
/// What `work` has locked is unlocked. All locks of ham4db recover from poison: what they protect is replaced or changed by single
/// operations.
pub async fn catch<T>(work: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(work).catch_unwind().await.ok()
}

/// Runs `compute` and catches its panic, as [`catch`].
pub fn catch_sync<T>(compute: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(compute)).ok()
}

/// Runs a loop until it ends. When it panics, it is started again after a pause, unless `cancel` is cancelled meanwhile.
pub async fn keep_running<F: Future<Output = ()>>(
    what: &str,
    cancel: &CancellationToken,
    mut start: impl FnMut() -> F,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        if catch(Box::pin(start())).await.is_some() {
            return;
        }
        if begun.elapsed() > STABLE_AFTER {
            pause = FIRST_PAUSE;
        }
        error!("{what} panicked, starting it again in {} ms", pause.as_millis());
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::PoisonError;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_is_started_again_and_one_that_ends_is_not() {
        let runs = AtomicU64::new(0);
        let shared = Mutex::new(0);
        keep_running("the loop", &CancellationToken::new(), || async {
            let mut value = shared.lock().unwrap_or_else(PoisonError::into_inner);
            *value += 1;
            assert!(runs.fetch_add(1, Ordering::Relaxed) >= 2, "a fault");
        })
        .await;
        assert_eq!(runs.load(Ordering::Relaxed), 3);
        assert_eq!(
            *shared.lock().unwrap_or_else(PoisonError::into_inner),
            3,
            "a poisoned lock is used again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_always_panics_ends_when_it_is_cancelled() {
        let cancel = CancellationToken::new();
        let runs = AtomicU64::new(0);
        let running = keep_running("the loop", &cancel, || async {
            runs.fetch_add(1, Ordering::Relaxed);
            panic!("a fault");
        });
        let cancelling = async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            cancel.cancel();
        };
        tokio::join!(running, cancelling);
        let runs = runs.load(Ordering::Relaxed);
        assert!(
            (8..=16).contains(&runs),
            "{runs} runs in a minute, with pauses up to 10 s"
        );
    }

    #[test]
    fn a_result_is_returned_and_a_panic_is_none() {
        assert_eq!(catch_sync(|| 7), Some(7));
        assert_eq!(catch_sync(|| -> u8 { panic!("a fault") }), None);
    }
}
