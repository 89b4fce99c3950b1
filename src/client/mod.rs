//! `ham4db-client`: the API on a command line, with the options, commands and output of orchestrator-client, so that scripts keep
//! working with the new program name.
//!
//! It reads arguments and environment ([`arguments`]), finds the command in the table ([`commands`]) and the leader ([`leader`]), sends the
//! request ([`endpoint`]), and prints the answer in the format that scripts expect ([`mod@print`]).

pub mod arguments;
pub mod commands;
pub mod debug;
pub mod endpoint;
pub mod leader;
pub mod print;
pub mod request;

use std::io::Write;

use arguments::{Arguments, Settings};
use commands::Command;
use debug::DebugLog;
use endpoint::{CallError, Endpoints};

/// Runs one command. Returns the exit code: 0, or 1 after a message on `err`.
///
/// Results go to `out`; of a refused request the message goes to `err` and its details, if any, to `out`, as orchestrator-client does.
pub async fn run(
    arguments: Arguments,
    variables: &dyn Fn(&str) -> Option<String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    // Output that cannot be written (a closed pipe) leaves nothing to report and nobody to report it to.
    let mut tell = |text: &str| u8::from(out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err());
    let settings = match Settings::new(arguments, variables) {
        Ok(settings) => settings,
        Err(why) => return fail(err, &why),
    };
    if settings.command == "help" {
        return tell(&commands::listing());
    }
    let Some(command) = commands::find(&settings.command) else {
        let why = format!(
            "Unsupported command: {}; `-c help` lists the commands",
            settings.command
        );
        return fail(err, &why);
    };
    let outcome = execute(command, &settings, &DebugLog::new(settings.debug, err)).await;
    match outcome {
        Ok(text) => tell(&text),
        Err(ClientError::Usage(why)) => fail(err, &why),
        Err(ClientError::Call(CallError::Refused { message, details })) => {
            if let Some(details) = details {
                tell(&print::lines([print::plain(&details)]));
            }
            fail(err, &message)
        }
        Err(ClientError::Call(other)) => fail(err, &other.to_string()),
    }
}

fn fail(err: &mut dyn Write, text: &str) -> u8 {
    drop(writeln!(err, "ham4db-client[{}]: {text}", std::process::id()));
    1
}

enum ClientError {
    Usage(String),
    Call(CallError),
}

async fn execute(command: &Command, settings: &Settings, debug: &DebugLog<'_>) -> Result<String, ClientError> {
    let request = (command.request)(settings).map_err(ClientError::Usage)?;
    let endpoints = Endpoints::new(settings, debug).map_err(ClientError::Usage)?;
    let Some(request) = request else {
        let api = endpoints.find().await.map_err(ClientError::Call)?;
        return Ok(print::lines([api.to_string().trim_end_matches('/').to_owned()]));
    };
    let answer = endpoints.call(&request).await.map_err(ClientError::Call)?;
    Ok((command.print)(&answer, settings))
}
