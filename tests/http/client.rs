//! The client against members that listen on ports.

use ham4db::adapter::http::{Options, WriteAccess};
use ham4db::app::api::PrimaryChangeOutcome;
use ham4db::app::api::write_tokens::WriteTokens;
use ham4db::client::arguments::Arguments;
use ham4db::client::run;

use crate::fixture::view_with_dead_primary;
use crate::group::peer;
use crate::member::Member;
use crate::records::{ended, recovery};
use clap::Parser;

pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) async fn client(endpoints: &str, line: &[&str]) -> Ran {
    client_with(endpoints, line, &[]).await
}

/// With more of the environment.
async fn client_with(endpoints: &str, line: &[&str], environment: &[(&str, &str)]) -> Ran {
    let arguments = Arguments::parse_from(["ham4db-client"].iter().chain(line));
    let endpoints = endpoints.to_owned();
    let variables = move |name: &str| match name {
        "ORCHESTRATOR_API" => Some(endpoints.clone()),
        "USER" => Some("me".to_owned()),
        _ => environment
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned()),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(arguments, &variables, &mut out, &mut err).await;
    Ran {
        code,
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

#[tokio::test]
async fn commands_print_what_scripts_expect() {
    let member = Member::alone();
    let served = member.serve().await;
    for (line, expected) in [
        (&["-c", "clusters"][..], "127.0.0.1:21100\n"),
        (&["-c", "clusters-alias"], "127.0.0.1:21100,shop\n"),
        (&["-c", "all-clusters-masters"], "127.0.0.1:21100\n"),
        (
            &["-c", "all-instances"],
            "127.0.0.1:21100\n127.0.0.1:21101\n127.0.0.1:21102\n127.0.0.1:21103\n",
        ),
        (&["-c", "search", "-q", "21103"], "127.0.0.1:21103\n"),
        (&["-c", "which-instance", "-i", "db-main"], "127.0.0.1:21100\n"),
        (&["-c", "which-cluster", "-i", "127.0.0.1:21103"], "127.0.0.1:21100\n"),
        (&["-c", "which-cluster-alias", "-a", "shop"], "shop\n"),
        (&["-c", "which-cluster-master", "-a", "shop"], "127.0.0.1:21100\n"),
        (
            &["-c", "which-cluster-instances", "-a", "shop"],
            "127.0.0.1:21100\n127.0.0.1:21101\n127.0.0.1:21102\n127.0.0.1:21103\n",
        ),
        (&["-c", "which-master", "-i", "127.0.0.1:21103"], "127.0.0.1:21102\n"),
        (&["-c", "which-master", "-i", "127.0.0.1:21100"], ""),
        (
            &["-c", "which-replicas", "-i", "127.0.0.1:21100"],
            "127.0.0.1:21101\n127.0.0.1:21102\n",
        ),
        (&["-c", "which-slaves", "-i", "127.0.0.1:21102"], "127.0.0.1:21103\n"),
        (
            &["-c", "is-replicating", "-i", "127.0.0.1", "-D", "21101"],
            "127.0.0.1:21101\n",
        ),
        (&["-c", "is-replication-stopped", "-i", "127.0.0.1:21101"], ""),
        (&["-c", "discover", "-i", "127.0.0.1:21101"], "127.0.0.1:21101\n"),
        (
            &[
                "-c",
                "begin-downtime",
                "-i",
                "127.0.0.1:21101",
                "-r",
                "disk / swap",
                "-u",
                "1h",
            ],
            "127.0.0.1:21101\n",
        ),
        (&["-c", "downtimed"], "127.0.0.1:21101\n"),
        (&["-c", "end-downtime", "-i", "127.0.0.1:21101"], "127.0.0.1:21101\n"),
        (&["-c", "downtimed", "-a", "shop"], ""),
        (
            &["-c", "register-candidate", "-i", "127.0.0.1:21101", "-R", "prefer"],
            "127.0.0.1:21101\n",
        ),
        (&["-c", "disable-global-recoveries"], "disabled\n"),
        (
            &["-c", "submit-masters-to-kv-stores"],
            "mysql/master/shop:127.0.0.1:21100\nmysql/master/shop/port:21100\n",
        ),
        (&["-c", "check-global-recoveries"], "disabled\n"),
        (&["-c", "ack-all-recoveries", "-r", "seen it"], "seen it\n"),
        (
            &["-c", "ack-cluster-recoveries", "-a", "shop", "-r", "seen it"],
            "127.0.0.1:21100\n",
        ),
        (
            &["-c", "explain", "-a", "shop"],
            "READY: if 127.0.0.1:21100 failed now, 127.0.0.1:21101 would be promoted",
        ),
        (&["-c", "explain"], "  127.0.0.1:21102  could be promoted: "),
        (&["-c", "explain", "-a", "shop", "-j"], "  \"ready\": true,"),
        (&["-c", "raft-leader-hostname"], "member-1.example\n"),
        (&["-c", "api", "-P", "clusters"], "[\n  \"127.0.0.1:21100\"\n]\n"),
        (&["-c", "api", "-P", "/search?s=21103&x=%20"], "21103"),
        (
            &["-c", "topology-tabulated", "-a", "shop"],
            "|10.11.19-MariaDB-0+deb12u1-log|ro|MIXED|",
        ),
    ] {
        let ran = client(&served.uri, line).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{line:?}");
        let whole = expected.is_empty() || expected.ends_with('\n');
        assert!(
            if whole {
                ran.out == expected
            } else {
                ran.out.contains(expected)
            },
            "{line:?} printed {}",
            ran.out
        );
    }
    served.stop().await;
}

#[tokio::test]
async fn an_analysis_is_a_line_for_each_finding() {
    let member = Member::alone();
    let mut view = view_with_dead_primary();
    view.findings[0].finding.structure =
        vec![ham4db::domain::finding::StructureWarning::NoWriteableMasterStructureWarning];
    member.show(view);
    let served = member.serve().await;
    let ran = client(&served.uri, &["-c", "replication-analysis"]).await;
    assert_eq!(
        ran.out,
        "127.0.0.1:21100 (cluster 127.0.0.1:21100): DeadMaster, NoWriteableMasterStructureWarning\n"
    );
    served.stop().await;
}

#[tokio::test]
async fn a_takeover_prints_the_successor() {
    let member = Member::alone();
    let takeover = recovery(7, ended(true));
    let uid = takeover.uid.clone();
    member
        .api
        .state
        .lock()
        .unwrap()
        .recoveries
        .insert(uid.clone(), takeover);
    *member.api.change.lock().unwrap() = Ok(PrimaryChangeOutcome::Over { uid });
    let served = member.serve().await;
    for (words, asked) in [
        (
            &["graceful-master-takeover", "-a", "shop", "-d", "127.0.0.1:21102"][..],
            "graceful-master-takeover of c1 to 127.0.0.1:21102",
        ),
        (
            &["graceful-master-takeover-auto", "-i", "127.0.0.1:21101"],
            "graceful-master-takeover-auto starting of c1 to any",
        ),
        (
            &["force-master-failover", "-a", "shop"],
            "force-master-failover forced of c1 to any",
        ),
        (
            &["force-master-takeover", "-a", "shop", "-d", "127.0.0.1:21102"],
            "force-master-takeover forced of c1 to 127.0.0.1:21102",
        ),
    ] {
        let arguments: Vec<&str> = ["-c"].iter().chain(words).copied().collect();
        let ran = client(&served.uri, &arguments).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, "127.0.0.1:21102\n"), "{}", ran.err);
        assert_eq!(member.api.calls().last().map(String::as_str), Some(asked));
    }
    let ran = client(&served.uri, &["-c", "force-master-takeover", "-a", "shop"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("-d host:port"), "{}", ran.err);
    served.stop().await;
}

#[tokio::test]
async fn a_refusal_prints_its_message_and_details_and_exits_with_1() {
    let member = Member::alone();
    let served = member.serve().await;
    let ran = client(&served.uri, &["-c", "which-instance", "-i", "127.0.0.1:9"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("Cannot read instance: 127.0.0.1:9"), "{}", ran.err);
    let ran = client(&served.uri, &["-c", "recover", "-i", "127.0.0.1:21101"]).await;
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (1, "{\"Hostname\":\"127.0.0.1\",\"Port\":21101}\n")
    );
    assert!(ran.err.contains("Recovery not attempted: no finding"), "{}", ran.err);
    assert_eq!(member.api.calls().len(), 1, "a change is asked for once");
    for line in [
        &["-c", "which-instance"][..],
        &["-c", "nosuch"],
        &["-c", "topology"],
        &["-c", "begin-downtime", "-i", "a"],
        &[],
    ] {
        let ran = client(&served.uri, line).await;
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{line:?}");
        assert!(ran.err.starts_with("ham4db-client["), "{}", ran.err);
    }
    served.stop().await;
}

#[tokio::test]
async fn of_several_endpoints_the_leader_is_used() {
    let leader = Member::in_group(1, Some(peer(1)));
    let follower = Member::in_group(2, Some(peer(1)));
    let (at_leader, at_follower) = (leader.serve().await, follower.serve().await);
    let both = format!("http://127.0.0.1:1 {} {}/api", at_follower.uri, at_leader.uri);
    let ran = client(&both, &["-c", "which-api"]).await;
    assert_eq!((ran.code, ran.out), (0, format!("{}/api\n", at_leader.uri)));
    let ran = client(&both, &["-c", "discover", "-i", "127.0.0.1:21101"]).await;
    assert_eq!(
        (ran.code, leader.api.calls().len(), follower.api.calls().len()),
        (0, 1, 0)
    );
    at_leader.stop().await;
    at_follower.stop().await;
}

#[tokio::test]
async fn credentials_and_headers_are_sent() {
    use axum::http::HeaderMap;
    use axum::routing::get;
    let seen = |headers: HeaderMap| async move {
        let of = |name: &str| {
            headers
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
                .unwrap_or_default()
        };
        axum::Json(vec![of("authorization"), of("x-forwarded-user")])
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let server =
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/api/clusters", get(seen))).await });
    let line = ["-c", "clusters", "-b", "me:p:w", "-e", "X-Forwarded-User: you"];
    assert_eq!(client(&uri, &line).await.out, "Basic bWU6cDp3\nyou\n");
    // The token is not sent where it is not needed.
    let reads = client_with(&uri, &["-c", "clusters"], &[("HAM4DB_API_TOKEN", "secret")]).await;
    assert_eq!(reads.out, "\n\n");
    let asks = client_with(
        &uri,
        &["-c", "api", "-P", "clusters"],
        &[("HAM4DB_API_TOKEN", "secret")],
    )
    .await;
    assert!(asks.out.contains("\"Bearer secret\""), "{}", asks.out);
    server.abort();
}

#[tokio::test]
async fn the_write_token_goes_along_with_changes() {
    let tokens = WriteTokens::parse("of-the-api\nand-another").unwrap();
    let options = Options {
        write_access: Some(WriteAccess::new("/etc/token".into(), tokens)),
        ..Options::default()
    };
    let member = Member::with_options(options);
    let served = member.serve().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "\nof-the-api\nand-another\n").unwrap();
    let (file, absent) = (file.to_str().unwrap(), folder.path().join("absent"));
    let absent = absent.to_str().unwrap();
    let discover = &["-c", "discover", "-i", "127.0.0.1:21101"][..];
    for environment in [
        &[("HAM4DB_API_TOKEN", "of-the-api")][..],
        &[
            ("HAM4DB_API_TOKEN", "and-another\nsomething"),
            ("HAM4DB_API_TOKEN_FILE", absent),
        ],
        &[("HAM4DB_API_TOKEN_FILE", file)],
        &[
            ("HAM4DB_API_TOKEN_FILE", file),
            ("HAM4DB_AUTH_USER", "me"),
            ("HAM4DB_AUTH_PASSWORD", "wrong"),
        ],
        &[
            ("ORCHESTRATOR_AUTH_USER", "me"),
            ("ORCHESTRATOR_AUTH_PASSWORD", "of-the-api"),
        ],
    ] {
        let ran = client_with(&served.uri, discover, environment).await;
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (0, "127.0.0.1:21101\n"),
            "{environment:?}: {}",
            ran.err
        );
    }
    let with_option = ["-c", "discover", "-i", "127.0.0.1:21101", "-b", "me:of-the-api"];
    let ran = client_with(&served.uri, &with_option, &[("HAM4DB_API_TOKEN", "wrong")]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let in_url = served.uri.replace("http://", "http://me:of-the-api@");
    let ran = client_with(&in_url, discover, &[("HAM4DB_API_TOKEN", "wrong")]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let done = member.api.calls().len();
    for (environment, advice) in [
        (&[][..], "set HAM4DB_API_TOKEN or HAM4DB_API_TOKEN_FILE"),
        (
            &[("HAM4DB_API_TOKEN", "wrong")],
            "the API refused the token of HAM4DB_API_TOKEN",
        ),
        (
            &[("HAM4DB_API_TOKEN_FILE", absent)],
            "HAM4DB_API_TOKEN_FILE: cannot read",
        ),
        (
            &[("HAM4DB_AUTH_USER", "me")],
            "check HAM4DB_AUTH_USER and HAM4DB_AUTH_PASSWORD",
        ),
    ] {
        let ran = client_with(&served.uri, discover, environment).await;
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{environment:?}");
        assert!(
            ran.err.contains("Unauthorized at http://127.0.0.1") && ran.err.contains(advice),
            "{}",
            ran.err
        );
        assert!(!ran.err.contains("wrong"), "{}", ran.err);
        // Reading needs no token.
        let ran = client_with(&served.uri, &["-c", "clusters"], environment).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, "127.0.0.1:21100\n"), "{}", ran.err);
    }
    assert_eq!(member.api.calls().len(), done);
    served.stop().await;
}

#[tokio::test]
async fn the_commands_are_listed_without_a_request() {
    let ran = client("http://127.0.0.1:1", &["-c", "help"]).await;
    assert_eq!(ran.code, 0);
    for name in ["topology ", "begin-downtime ", "which-cluster-master ", "recover "] {
        assert!(
            ran.out.lines().any(|line| line.starts_with(name)),
            "{name} is not in\n{}",
            ran.out
        );
    }
}
