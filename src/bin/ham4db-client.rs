//! `ham4db-client`: the commands of the API on a command line.

use std::process::ExitCode;

use clap::Parser;
use ham4db::client::{self, arguments::Arguments};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let variables = |name: &str| std::env::var(name).ok();
    ExitCode::from(
        client::run(
            Arguments::parse(),
            &variables,
            &mut std::io::stdout(),
            &mut std::io::stderr(),
        )
        .await,
    )
}
