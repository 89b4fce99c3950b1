//! `ham4db`: runs a member of the group, and has the commands for its operator.

use std::process::ExitCode;

fn main() -> ExitCode {
    match ham4db::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let written = writeln!(std::io::stderr(), "ham4db: {error:#}");
            drop(written);
            ExitCode::FAILURE
        }
    }
}
