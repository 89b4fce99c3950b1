//! Scripts and tests find a program by the same rule.

use std::path::Path;
use std::process::Command;

use super::kit::tools::find_tool_in;

fn put(folder: &Path, name: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What `find_tool` in tests/setup/tools.sh prints.
fn found_by_the_script(cache: &Path, path: &str, name: &str) -> Option<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/tools.sh");
    let output = Command::new("/bin/bash")
        .args(["-c", r#". "$0"; find_tool "$1""#, script, name])
        .env("CACHE", cache)
        .env("PATH", path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then(|| text.trim().to_owned())
}

#[test]
fn a_program_is_found_in_the_cache_folder_first_and_then_in_path() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, first, second) = (
        folder.path().join("cache"),
        folder.path().join("first"),
        folder.path().join("second"),
    );
    put(&cache.join("bin"), "both", 0o755);
    put(&cache.join("bin"), "built", 0o755);
    put(&cache.join("bin"), "broken", 0o644);
    for (place, names) in [
        (&first, &["both", "twice"][..]),
        (&second, &["twice", "broken", "installed"]),
    ] {
        for name in names {
            put(place, name, 0o755);
        }
    }
    std::fs::create_dir_all(cache.join("bin/installed")).unwrap();
    let path = format!("{}:{}", first.display(), second.display());
    let expected = [
        ("both", Some(cache.join("bin/both"))),
        ("built", Some(cache.join("bin/built"))),
        // What cannot be run is not the program.
        ("broken", Some(second.join("broken"))),
        ("twice", Some(first.join("twice"))),
        ("installed", Some(second.join("installed"))),
        ("missing", None),
    ];
    for (name, place) in expected {
        assert_eq!(find_tool_in(&cache, path.as_ref(), name), place, "{name}");
        let place = place.map(|place| place.to_str().unwrap().to_owned());
        assert_eq!(found_by_the_script(&cache, &path, name), place, "{name}");
    }
}

/// Whether set-up takes a kubectl in `PATH` that reports this.
fn is_taken(reported: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "kubectl", 0o755);
    std::fs::write(folder.path().join("kubectl"), format!("#!/bin/sh\necho '{reported}'\n")).unwrap();
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup");
    Command::new("/bin/bash")
        .args(["-c", r#". "$0/cache.sh"; . "$0/kubernetes.sh"; kubectl_ready"#, scripts])
        .env("CACHE", folder.path().join("cache"))
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .status()
        .unwrap()
        .success()
}

#[test]
fn a_kubectl_of_the_machine_is_taken_when_it_is_new_enough() {
    for (reported, expected) in [
        ("Client Version: v1.33.1", true),
        ("Client Version: v1.31.0+k3s1", true),
        ("Client Version: v1.32.4-dispatcher", true),
        ("Client Version: v1.30.9", false),
        (
            r#"Client Version: version.Info{Major:"1", Minor:"20", GitVersion:"v1.20.2", GitCommit:"faecb1"}"#,
            false,
        ),
        ("kubectl: command not found", false),
    ] {
        assert_eq!(is_taken(reported), expected, "{reported}");
    }
}
