//! Real commands of a real shell.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

/// Deadline for a wait of a test.
const PATIENCE: Duration = Duration::from_secs(20);

fn call(text: &str) -> HookCall {
    HookCall {
        text: text.to_owned(),
        environment: BTreeMap::new(),
        input: String::new(),
        deadline: PATIENCE,
    }
}

fn hooks() -> ShellHooks {
    ShellHooks::new(DEFAULT_SHELL, BTreeSet::new())
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process runs; one that has ended and was not awaited yet does not.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

#[tokio::test]
async fn a_command_ends_with_its_code_and_its_output() {
    let end = hooks().run(call("echo out; echo err >&2")).await;
    assert_eq!(end.exit, HookExit::Code(0));
    assert!(end.output.contains("out") && end.output.contains("err"), "{end:?}");
    let end = hooks().run(call("echo no >&2; exit 3")).await;
    assert_eq!((end.exit, end.output.as_str()), (HookExit::Code(3), "no\n"));
    assert_eq!(hooks().run(call("kill -TERM $$")).await.exit, HookExit::Signal(15));
    assert_eq!(
        hooks().run(call("no-such-program-at-all")).await.exit,
        HookExit::Code(127)
    );
}

#[tokio::test]
async fn a_command_gets_variables_and_its_input() {
    let end = hooks()
        .run(HookCall {
            environment: BTreeMap::from([("ORC_FAILED_HOST", "db1'; exit 9; '".to_owned())]),
            input: "{\"version\":1}".to_owned(),
            ..call("printf '%s|' \"$ORC_FAILED_HOST\"; cat")
        })
        .await;
    assert_eq!(end.output, "db1'; exit 9; '|{\"version\":1}");
}

#[tokio::test]
async fn an_unread_input_does_not_block() {
    let end = hooks()
        .run(HookCall {
            input: "x".repeat(1 << 20),
            ..call("exit 0")
        })
        .await;
    assert_eq!(end.exit, HookExit::Code(0));
}

#[tokio::test]
async fn variables_with_passwords_are_withheld_and_others_are_passed() {
    // Variables that cargo sets for tests stand for a password and for another variable.
    let hidden = BTreeSet::from(["CARGO_PKG_NAME".to_owned()]);
    let end = ShellHooks::new(DEFAULT_SHELL, hidden)
        .run(call("echo \"[$CARGO_PKG_NAME][$CARGO_PKG_VERSION]\""))
        .await;
    assert_eq!(end.output, format!("[][{}]\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_missing_shell_is_reported_and_only_bash_has_a_fallback() {
    let end = ShellHooks::new("no-such-shell", BTreeSet::new())
        .run(call("exit 0"))
        .await;
    let HookExit::NotRun(why) = end.exit else {
        panic!("{end:?}")
    };
    assert!(why.starts_with("no-such-shell: "), "{why}");
    assert_eq!(
        ShellHooks::new(FALLBACK_SHELL, BTreeSet::new())
            .run(call("exit 4"))
            .await
            .exit,
        HookExit::Code(4)
    );
}

#[tokio::test]
async fn the_deadline_kills_all_processes_of_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let begun = Instant::now();
    let end = hooks()
        .run(HookCall {
            deadline: Duration::from_secs(1),
            environment: BTreeMap::from([("FILE", file.to_string_lossy().into_owned())]),
            ..call("sleep 600 & echo $! > \"$FILE.part\"; echo $$ >> \"$FILE.part\"; mv \"$FILE.part\" \"$FILE\"; echo begun; wait")
        })
        .await;
    assert_eq!((end.exit, end.output.as_str()), (HookExit::TooSlow, "begun\n"));
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    for pid in std::fs::read_to_string(&file).unwrap().lines() {
        until(&format!("{pid} is gone"), || !runs(pid)).await;
    }
}

#[tokio::test]
async fn a_dropped_call_kills_its_command() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let task = tokio::spawn({
        let file = file.to_string_lossy().into_owned();
        async move {
            hooks()
                .run(HookCall {
                    environment: BTreeMap::from([("FILE", file)]),
                    ..call("echo $$ > \"$FILE.part\"; mv \"$FILE.part\" \"$FILE\"; sleep 600; :")
                })
                .await
        }
    });
    until("it has begun", || file.exists()).await;
    task.abort();
    let pid = std::fs::read_to_string(&file).unwrap();
    until("it is gone", || !runs(pid.trim())).await;
}

#[tokio::test]
async fn the_end_of_a_huge_output_is_kept_and_the_command_does_not_block() {
    let end = hooks()
        .run(call("head -c 20000000 /dev/zero | tr '\\0' x; echo; echo the end"))
        .await;
    assert_eq!(end.exit, HookExit::Code(0));
    assert!(end.output.ends_with("\nthe end\n"), "{}", end.output.len());
    assert_eq!(end.output.len(), KEPT_OUTPUT);
}

#[tokio::test]
async fn remaining_processes_keep_running_and_are_not_awaited() {
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let begun = Instant::now();
    let end = hooks()
        .run(HookCall {
            environment: BTreeMap::from([("GO", go.to_string_lossy().into_owned())]),
            ..call("(while [ ! -e \"$GO\" ]; do sleep 0.05; done; echo more > \"$GO.seen\") & echo $!")
        })
        .await;
    assert_eq!(end.exit, HookExit::Code(0));
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    assert!(runs(end.output.trim()), "{end:?}");
    std::fs::write(&go, "").unwrap();
    until("it has gone on", || folder.path().join("go.seen").exists()).await;
}
