//! The handshake: greeting, TLS, authentication.

use super::auth::{self, CHALLENGE, Challenge, Plugin};
use super::connection::{Login, Transport};
use super::cursor::Cursor;
use super::error::ProtocolError;
use super::limits;
use super::packet_stream::{PacketStream, Socket};
use super::tls;
use crate::app::ports::TlsMode;

/// Bits of the capabilities.
mod capability {
    pub(super) const FOUND_ROWS: u32 = 1 << 1;
    pub(super) const IGNORE_SPACE: u32 = 1 << 8;
    pub(super) const PROTOCOL_41: u32 = 1 << 9;
    pub(super) const TLS: u32 = 1 << 11;
    pub(super) const TRANSACTIONS: u32 = 1 << 13;
    pub(super) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(super) const MULTI_STATEMENTS: u32 = 1 << 16;
    pub(super) const MULTI_RESULTS: u32 = 1 << 17;
    pub(super) const PLUGIN_AUTH: u32 = 1 << 19;
    pub(super) const LENENC_AUTH_DATA: u32 = 1 << 21;
    pub(super) const DEPRECATE_EOF: u32 = 1 << 24;
}

/// What ham4db uses, where the server has it.
const WANTED: u32 = capability::FOUND_ROWS
    | capability::IGNORE_SPACE
    | capability::PROTOCOL_41
    | capability::TRANSACTIONS
    | capability::SECURE_CONNECTION
    | capability::MULTI_STATEMENTS
    | capability::MULTI_RESULTS
    | capability::PLUGIN_AUTH
    | capability::LENENC_AUTH_DATA
    | capability::DEPRECATE_EOF;

/// What a server must have: MySQL and MariaDB have it since 4.1.
const REQUIRED: u32 = capability::PROTOCOL_41 | capability::SECURE_CONNECTION;

/// `utf8mb4_general_ci`, which both flavours have.
const UTF8MB4: u8 = 45;

/// The largest packet that ham4db accepts, as announced to the server.
const MAX_PACKET_SIZE: u32 = 1 << 24;

/// What the server sends first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) capabilities: u32,
    pub(super) challenge: Challenge,
    /// The name of the authentication plugin; empty when the server names none.
    pub(super) plugin: Vec<u8>,
}

impl Greeting {
    /// Reads the greeting; `None` when it is none.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(packet);
        if cursor.u8()? != 10 {
            return None;
        }
        let _version = cursor.nul_terminated()?;
        let _connection_id = cursor.u32()?;
        let first = cursor.bytes(8)?;
        let _filler = cursor.u8()?;
        let low = cursor.u16()?;
        let _collation = cursor.u8()?;
        let _status = cursor.u16()?;
        let high = cursor.u16()?;
        let length = usize::from(cursor.u8()?);
        let _reserved = cursor.bytes(10)?;
        let capabilities = u32::from(low) | u32::from(high) << 16;
        if capabilities & REQUIRED != REQUIRED {
            return None;
        }
        let second = cursor.bytes(length.saturating_sub(8).max(13))?;
        let challenge = [first, second.get(..CHALLENGE - 8)?].concat();
        let plugin = if capabilities & capability::PLUGIN_AUTH == 0 {
            Vec::new()
        } else {
            cursor.nul_terminated_or_rest().to_vec()
        };
        Some(Self {
            capabilities,
            challenge: challenge.try_into().ok()?,
            plugin,
        })
    }
}

/// A completed handshake.
pub(super) struct Established {
    pub(super) stream: PacketStream,
    pub(super) transport: Transport,
    /// Results end with an OK packet instead of an EOF packet.
    pub(super) deprecates_eof: bool,
}

/// Runs the handshake on a socket on which nothing was sent or received.
///
/// # Errors
/// When the server refuses the account, requests what it does not get, or sends something else than a handshake.
pub(super) async fn run(socket: Box<dyn Socket>, login: &Login<'_>) -> Result<Established, ProtocolError> {
    let mut stream = PacketStream::new(socket);
    let packet = stream
        .read(limits::HANDSHAKE_PACKET)
        .await
        .map_err(truncated_greeting)?;
    if packet.first() == Some(&0xFF) {
        return Err(ProtocolError::from_packet(&packet));
    }
    let greeting =
        Greeting::parse(&packet).ok_or_else(|| ProtocolError::unreadable("not a greeting of a server", &packet))?;
    let (stream, transport) = secure(stream, &greeting, login).await?;
    let capabilities = agreed(&greeting, transport);
    let mut authentication = Authentication {
        stream,
        transport,
        login,
        plugin: Plugin::from_name(&greeting.plugin).unwrap_or(Plugin::NativePassword),
        challenge: greeting.challenge,
        asked_for_key: false,
    };
    authentication.log_in(capabilities).await?;
    Ok(Established {
        stream: authentication.stream,
        transport,
        deprecates_eof: capabilities & capability::DEPRECATE_EOF != 0,
    })
}

/// A part of a greeting was sent by something that is alive. A server that dies does not stop there: it sends its greeting at once.
fn truncated_greeting(error: ProtocolError) -> ProtocolError {
    match error {
        ProtocolError::Truncated(text) => ProtocolError::Unreadable(format!("not a greeting of a server: {text}")),
        error @ (ProtocolError::Server { .. }
        | ProtocolError::Io(_)
        | ProtocolError::Unreadable(_)
        | ProtocolError::Tls(_)
        | ProtocolError::Denied(_)) => error,
    }
}

/// The capabilities that both sides have.
fn agreed(greeting: &Greeting, transport: Transport) -> u32 {
    let tls = match transport {
        Transport::Plain => 0,
        Transport::Unverified | Transport::Verified => capability::TLS,
    };
    (WANTED & greeting.capabilities) | tls
}

/// Establishes TLS as the mode requires it and the server offers it.
async fn secure(
    mut stream: PacketStream,
    greeting: &Greeting,
    login: &Login<'_>,
) -> Result<(PacketStream, Transport), ProtocolError> {
    let offered = greeting.capabilities & capability::TLS != 0;
    let (config, transport) = match login.tls {
        TlsMode::Off => return Ok((stream, Transport::Plain)),
        TlsMode::Preferred if !offered => return Ok((stream, Transport::Plain)),
        TlsMode::Required | TlsMode::Verify if !offered => {
            return Err(ProtocolError::Tls("the server does not support TLS".to_owned()));
        }
        TlsMode::Preferred | TlsMode::Required => (tls::unverified(), Transport::Unverified),
        TlsMode::Verify => (tls::verified(login.ca_pem)?, Transport::Verified),
    };
    stream.write(&response_head(agreed(greeting, transport))).await?;
    let sequence = stream.sequence();
    let socket = tls::establish(stream.into_socket()?, config, login.server_name).await?;
    Ok((PacketStream::on_socket(socket, sequence), transport))
}

/// The begin of the response to the greeting. It is also the request for TLS.
fn response_head(capabilities: u32) -> Vec<u8> {
    let mut head = Vec::with_capacity(128);
    head.extend(capabilities.to_le_bytes());
    head.extend(MAX_PACKET_SIZE.to_le_bytes());
    head.push(UTF8MB4);
    head.extend([0; 23]);
    head
}

/// The authentication of one connection.
struct Authentication<'a> {
    stream: PacketStream,
    transport: Transport,
    login: &'a Login<'a>,
    plugin: Plugin,
    challenge: Challenge,
    /// The server was asked for its public key, and did not answer yet.
    asked_for_key: bool,
}

impl Authentication<'_> {
    /// Sends the response to the greeting and answers the server until it accepts the account.
    async fn log_in(&mut self, capabilities: u32) -> Result<(), ProtocolError> {
        let answer = self.answer()?;
        let mut response = response_head(capabilities);
        response.extend_from_slice(self.login.user.as_bytes());
        response.push(0);
        // The answers have at most 251 bytes in practice. Longer ones, of passwords in clear, need a longer length.
        match u8::try_from(answer.len()) {
            Ok(length @ 0..=0xFA) => response.push(length),
            _ if capabilities & capability::LENENC_AUTH_DATA != 0 => {
                let [low, high, ..] = answer.len().to_le_bytes();
                response.extend([0xFC, low, high]);
            }
            _ => {
                return Err(ProtocolError::Denied(
                    "the password is too long for this server".to_owned(),
                ));
            }
        }
        response.extend_from_slice(&answer);
        if capabilities & capability::PLUGIN_AUTH != 0 {
            response.extend_from_slice(self.plugin.name().as_bytes());
            response.push(0);
        }
        self.stream.write(&response).await?;
        for _ in 0..limits::HANDSHAKE_PACKETS {
            let packet = self.stream.read(limits::HANDSHAKE_PACKET).await?;
            match packet.split_first() {
                Some((0x00, _)) => return Ok(()),
                Some((0xFF, _)) => return Err(ProtocolError::from_packet(&packet)),
                Some((0xFE, switch)) => self.switch(switch).await?,
                Some((0x01, data)) => self.more_data(data).await?,
                _ => return Err(ProtocolError::unreadable("an unknown answer to the login", &packet)),
            }
        }
        let text = format!("the login has more than {} answers", limits::HANDSHAKE_PACKETS);
        Err(ProtocolError::Unreadable(text))
    }

    /// Changes the plugin and the challenge.
    async fn switch(&mut self, request: &[u8]) -> Result<(), ProtocolError> {
        let mut cursor = Cursor::new(request);
        let name = cursor.nul_terminated_or_rest();
        // A request without a name is one of a server that has passwords of MySQL 4.0 only.
        let name = if name.is_empty() { b"mysql_old_password" } else { name };
        let Some(plugin) = Plugin::from_name(name) else {
            let name: String = String::from_utf8_lossy(name)
                .chars()
                .filter(|c| !c.is_control())
                .take(64)
                .collect();
            return Err(ProtocolError::Denied(format!(
                "the server requests the authentication plugin `{name}`, which is not supported: use caching_sha2_password or \
                 mysql_native_password for this account"
            )));
        };
        let challenge = cursor.rest();
        self.plugin = plugin;
        self.asked_for_key = false;
        if plugin != Plugin::ClearPassword {
            let challenge = challenge
                .get(..CHALLENGE)
                .and_then(|challenge| challenge.try_into().ok());
            self.challenge =
                challenge.ok_or_else(|| ProtocolError::unreadable("a request without a challenge", request))?;
        }
        let answer = self.answer()?;
        self.stream.write(&answer).await
    }

    /// The first answer to the challenge.
    fn answer(&mut self) -> Result<Vec<u8>, ProtocolError> {
        let password = self.login.password;
        if self.plugin == Plugin::ClearPassword && self.transport != Transport::Verified {
            return Err(ProtocolError::Denied(
                "the server requests the password in clear text (mysql_clear_password), which is sent over verified TLS only: use \
                 another authentication plugin for this account, or verify the servers (tls.mode Verify, MySQLTopologySSLCAFile)"
                    .to_owned(),
            ));
        }
        if password.is_empty() {
            return Ok(match self.plugin {
                Plugin::NativePassword => Vec::new(),
                Plugin::CachingSha2 | Plugin::Sha256 | Plugin::ClearPassword => vec![0],
            });
        }
        Ok(match self.plugin {
            Plugin::NativePassword => auth::native_password(password, &self.challenge),
            Plugin::CachingSha2 => auth::caching_sha2(password, &self.challenge),
            Plugin::ClearPassword => auth::clear(password),
            Plugin::Sha256 if self.transport != Transport::Plain => auth::clear(password),
            Plugin::Sha256 => {
                self.asked_for_key = true;
                vec![1]
            }
        })
    }

    /// Answers what the plugin of the server sends beside its challenge.
    async fn more_data(&mut self, data: &[u8]) -> Result<(), ProtocolError> {
        /// The server knows the password from an earlier login; its OK follows.
        const KNOWN: &[u8] = &[3];
        /// The server needs the password itself.
        const FULL_AUTHENTICATION: &[u8] = &[4];
        if self.asked_for_key {
            self.asked_for_key = false;
            let answer = auth::encrypted(self.login.password, &self.challenge, data)?;
            return self.stream.write(&answer).await;
        }
        match (self.plugin, data) {
            (Plugin::CachingSha2, KNOWN) => Ok(()),
            (Plugin::CachingSha2, FULL_AUTHENTICATION) if self.transport != Transport::Plain => {
                self.stream.write(&auth::clear(self.login.password)).await
            }
            (Plugin::CachingSha2, FULL_AUTHENTICATION) => {
                self.asked_for_key = true;
                self.stream.write(&[2]).await
            }
            _ => Err(ProtocolError::unreadable(
                "unexpected data of the authentication plugin",
                data,
            )),
        }
    }
}
