//! `ham4db-client`: the commands of the API on a command line.

use std::process::ExitCode;

use clap::Parser;
use ham4db::client::arguments::{Arguments, with_two_hyphens};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let variables = |name: &str| std::env::var(name).ok();
    ExitCode::from(
        ham4db::client::run(
            Arguments::parse_from(with_two_hyphens(std::env::args())),
            &variables,
            &mut std::io::stdout(),
            &mut std::io::stderr(),
        )
        .await,
    )
}
