//! Options and environment variables, the same as those of orchestrator-client.

use clap::Parser;
use secrecy::SecretString;

use crate::domain::key::{DEFAULT_PORT, InstanceKey};

/// The environment variables, for `--help`.
pub const LONG_HELP: &str = "\
Environment (each with orchestrator's name as a fallback, ORCHESTRATOR_API and so on):
  HAM4DB_API               one endpoint (a proxy, or any member), or all members separated by blanks: the leader is found
  HAM4DB_INSTANCE          default for -i
  HAM4DB_API_TOKEN         write token: sent along with what changes something
  HAM4DB_API_TOKEN_FILE    file with it, of which the first line counts
  HAM4DB_AUTH_USER         user for basic authentication
  HAM4DB_AUTH_PASSWORD     its password
  HAM4DB_AUTH_USER_HEADER  one more header, as `Header: user`";

/// Arguments of the program. The end of `--help` is [`LONG_HELP`].
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "ham4db-client", version, about = "Sends commands to the API of ham4db. `-c help` lists the commands.", after_help = LONG_HELP)]
pub struct Arguments {
    /// Command to run; `help` lists them.
    #[arg(short = 'c', long, default_value = "")]
    pub command: String,
    /// Instance, `host` or `host:port`.
    #[arg(short = 'i')]
    pub instance: Option<String>,
    /// Destination instance.
    #[arg(short = 'd')]
    pub destination: Option<String>,
    /// Sibling or old spelling of the destination.
    #[arg(short = 's')]
    pub sibling: Option<String>,
    /// Cluster: name, alias or an instance of it.
    #[arg(short = 'a', long)]
    pub alias: Option<String>,
    /// Owner of the request; default: the user of the shell.
    #[arg(short = 'o', long)]
    pub owner: Option<String>,
    /// Reason.
    #[arg(short = 'r', long)]
    pub reason: Option<String>,
    /// Duration: a number with s, m, h, d or w.
    #[arg(short = 'u', long, default_value = "10m")]
    pub duration: String,
    /// Promotion rule: `prefer`, `neutral`, `prefer_not`, `must_not`.
    #[arg(short = 'R', long)]
    pub promotion_rule: Option<String>,
    /// API endpoints; overrides the environment.
    #[arg(short = 'U', long)]
    pub api: Option<String>,
    /// Path for `-c api`, for example `clusters-info`.
    #[arg(short = 'P', long)]
    pub path: Option<String>,
    /// Text for `-c search`.
    #[arg(short = 'q', long)]
    pub query: Option<String>,
    /// Basic authentication, `user:password`; overrides the token of the environment. Other users of the machine can see it: prefer the environment.
    #[arg(short = 'b', long)]
    pub auth: Option<String>,
    /// An additional header, `Header: user`, for an authenticating proxy.
    #[arg(short = 'e', long)]
    pub headers_auth: Option<String>,
    /// Port of instances without a port.
    #[arg(short = 'D', default_value_t = DEFAULT_PORT)]
    pub default_port: u16,
    /// Print the answer as JSON, where a command prints text by default.
    #[arg(short = 'j', long)]
    pub json: bool,
    /// Print on stderr which endpoints were asked, and which member answered.
    #[arg(long)]
    pub debug: bool,
    /// Tag (no command of this version needs it).
    #[arg(short = 't', long)]
    pub tag: Option<String>,
    /// Pool (no command of this version needs it).
    #[arg(short = 'l', long)]
    pub pool: Option<String>,
    /// Host name (no command of this version needs it).
    #[arg(short = 'H', long)]
    pub hostname: Option<String>,
    /// Binary log (no command of this version needs it).
    #[arg(short = 'n', long)]
    pub binlog: Option<String>,
    /// Seconds (no command of this version needs it).
    #[arg(short = 'S', long)]
    pub seconds: Option<String>,
}

/// The long options that orchestrator-client also accepts after one hyphen, and `debug`.
const LONG_AFTER_ONE_HYPHEN: [&str; 18] = [
    "help",
    "command",
    "alias",
    "owner",
    "reason",
    "promotion-rule",
    "duration",
    "tag",
    "pool",
    "hostname",
    "api",
    "path",
    "query",
    "auth",
    "headers-auth",
    "binlog",
    "seconds",
    "debug",
];

/// The words of a command line with long options after two hyphens. Read as they are, `-alias` would be `-a lias`.
pub fn with_two_hyphens(words: impl IntoIterator<Item = String>) -> impl Iterator<Item = String> {
    words.into_iter().map(|word| {
        let is_long = word
            .strip_prefix('-')
            .is_some_and(|name| LONG_AFTER_ONE_HYPHEN.contains(&name));
        if is_long { format!("-{word}") } else { word }
    })
}

/// The write token, and where it comes from. `Debug` does not show it.
#[derive(Clone, Debug)]
pub enum WriteToken {
    /// The environment has none.
    Unset,
    /// The token, and the variable that supplied it.
    Known(SecretString, &'static str),
    /// The file of `HAM4DB_API_TOKEN_FILE` cannot be used, with the reason.
    Unreadable(String),
}

impl WriteToken {
    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let first = |text: &str| {
            let line = text.lines().map(str::trim).find(|line| !line.is_empty());
            line.map(|token| SecretString::from(token.to_owned()))
        };
        if let Some(token) = variable("API_TOKEN").as_deref().and_then(first) {
            return Self::Known(token, "HAM4DB_API_TOKEN");
        }
        let Some(file) = variable("API_TOKEN_FILE") else {
            return Self::Unset;
        };
        match std::fs::read_to_string(&file) {
            Ok(text) => first(&text).map_or_else(
                || Self::Unreadable(format!("{file} contains no token")),
                |token| Self::Known(token, "HAM4DB_API_TOKEN_FILE"),
            ),
            Err(error) => Self::Unreadable(format!("cannot read {file}: {error}")),
        }
    }
}

/// The effective arguments, completed from the environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the command, with `slave` replaced by `replica`.
    pub command: String,
    /// Instance as written.
    pub instance: Option<String>,
    /// Destination as written.
    pub destination: Option<String>,
    /// Cluster.
    pub alias: Option<String>,
    /// Owner of the request.
    pub owner: String,
    /// Reason.
    pub reason: Option<String>,
    /// Duration.
    pub duration: String,
    /// Promotion rule.
    pub promotion_rule: Option<String>,
    /// Endpoints as written, at least one.
    pub endpoints: Vec<String>,
    /// Path for `-c api`.
    pub path: Option<String>,
    /// Text to search for.
    pub query: Option<String>,
    /// Print the answer as JSON.
    pub json: bool,
    /// Print which endpoints were asked, and which member answered.
    pub debug: bool,
    /// User and password.
    pub basic: Option<(String, SecretString)>,
    /// Write token.
    pub token: WriteToken,
    /// An additional header.
    pub header: Option<(String, String)>,
    /// Port of instances without a port.
    pub default_port: u16,
}

impl Settings {
    /// Completes the arguments from the environment.
    ///
    /// # Errors
    /// When there is no command, or an option is invalid.
    pub fn new(arguments: Arguments, variables: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let variable = |name: &str| {
            let present = |name: String| variables(&name).filter(|value| !value.is_empty());
            present(format!("HAM4DB_{name}")).or_else(|| present(format!("ORCHESTRATOR_{name}")))
        };
        if arguments.command.is_empty() {
            return Err("No command given. Use -c <command> (`-c help` lists them)".to_owned());
        }
        let api = arguments
            .api
            .or_else(|| variable("API"))
            .unwrap_or_else(|| "http://localhost:3000".to_owned());
        let token = if arguments.auth.is_some() {
            WriteToken::Unset
        } else {
            WriteToken::of(&variable)
        };
        let basic = match arguments.auth {
            Some(both) => {
                let (user, password) = both.split_once(':').ok_or("-b requires user:password")?;
                Some((user.to_owned(), SecretString::from(password.to_owned())))
            }
            None => variable("AUTH_USER")
                .map(|user| (user, SecretString::from(variable("AUTH_PASSWORD").unwrap_or_default()))),
        };
        let header = match arguments.headers_auth.or_else(|| variable("AUTH_USER_HEADER")) {
            Some(text) => {
                let (name, value) = text
                    .split_once(':')
                    .ok_or("the header for a proxy must have the form Header: user")?;
                Some((name.trim().to_owned(), value.trim().to_owned()))
            }
            None => None,
        };
        let user = || {
            variables("USER")
                .or_else(|| variables("LOGNAME"))
                .filter(|name| !name.is_empty())
        };
        Ok(Self {
            command: arguments.command.replacen("slave", "replica", 1),
            instance: arguments.instance.or_else(|| variable("INSTANCE")),
            destination: arguments.destination.or(arguments.sibling),
            alias: arguments.alias,
            owner: arguments
                .owner
                .or_else(user)
                .unwrap_or_else(|| "ham4db-client".to_owned()),
            reason: arguments.reason,
            duration: arguments.duration,
            promotion_rule: arguments.promotion_rule,
            endpoints: api.split_whitespace().map(str::to_owned).collect(),
            path: arguments.path,
            query: arguments.query,
            json: arguments.json,
            debug: arguments.debug,
            basic,
            token,
            header,
            default_port: arguments.default_port,
        })
    }

    /// The instance of the command.
    ///
    /// # Errors
    /// When it is missing or not an address.
    pub fn key(&self) -> Result<InstanceKey, String> {
        let text = self
            .instance
            .as_deref()
            .ok_or("instance must be provided: -i host:port")?;
        InstanceKey::parse(text, self.default_port).map_err(|error| error.to_string())
    }

    /// The destination.
    ///
    /// # Errors
    /// When it is not an address.
    pub fn destination_key(&self) -> Result<Option<InstanceKey>, String> {
        let parse = |text: &str| InstanceKey::parse(text, self.default_port).map_err(|error| error.to_string());
        self.destination.as_deref().map(parse).transpose()
    }

    /// The cluster of the command: `-a`, or the one of `-i`.
    ///
    /// # Errors
    /// When neither is given.
    pub fn hint(&self) -> Result<String, String> {
        self.hint_if_given()
            .ok_or_else(|| "instance or alias must be provided: -i host:port or -a cluster".to_owned())
    }

    /// The same, when one is given.
    pub fn hint_if_given(&self) -> Option<String> {
        self.alias.clone().or_else(|| self.instance.clone())
    }

    /// The reason.
    ///
    /// # Errors
    /// When there is none.
    pub fn reason(&self) -> Result<String, String> {
        self.reason
            .clone()
            .filter(|reason| !reason.is_empty())
            .ok_or_else(|| "reason must be provided: -r text".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_options_may_follow_one_hyphen() {
        let words = [
            "ham4db-client",
            "-command",
            "topology",
            "-alias",
            "shop",
            "-debug",
            "-j",
            "-D",
            "3307",
        ];
        let words = words.into_iter().map(str::to_owned);
        let arguments = Arguments::try_parse_from(with_two_hyphens(words)).unwrap();
        assert_eq!(
            (arguments.command.as_str(), arguments.alias.as_deref(), arguments.debug),
            ("topology", Some("shop"), true)
        );
        assert_eq!(
            (arguments.json, arguments.default_port, arguments.destination),
            (true, 3307, None)
        );
    }
}
