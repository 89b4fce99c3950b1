//! Finds the leader among the endpoints.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use reqwest::{Response, StatusCode, Url};
use serde_json::Value;

use super::endpoint::{CallError, Endpoints, causes, member_of, text_of};
use super::request::{route_of, shown};

/// Deadline for the answer of one endpoint. A member needs at most half of it.
const CHECK_DEADLINE: Duration = Duration::from_secs(1);

/// How much of the answer of an endpoint that is not the leader is read, bytes.
const MAX_REASON: usize = 4096;

/// The routes that show the leader: of the leader itself, and of members that reach it when this client does not.
const ROUTES: [&str; 2] = ["leader-check", "routed-leader-check"];

/// What an endpoint answered to a route.
enum Check {
    Leads,
    Unauthorized,
    Refused(String),
}

impl Endpoints<'_, '_> {
    /// The endpoint for requests, found in one look at all of them at once: an endpoint that does not answer delays nothing while the
    /// leader answers. A single endpoint is used as it is: a load balancer, or a member that forwards requests.
    ///
    /// # Errors
    /// When there are several and none of them is the leader or knows it.
    pub async fn leader(&self) -> Result<Url, CallError> {
        if let [only] = self.apis.as_slice() {
            self.debug
                .line(|| format!("{} is used: it is the only endpoint", shown(only)));
            return Ok(only.clone());
        }
        let mut tried: Vec<Vec<String>> = vec![Vec::new(); self.apis.len()];
        for route in ROUTES {
            let check = |(api, reasons)| async move { (api, reasons, self.check(api, route).await) };
            let mut checks: FuturesUnordered<_> = self.apis.iter().zip(tried.iter_mut()).map(check).collect();
            while let Some((api, reasons, check)) = checks.next().await {
                match check {
                    Check::Leads => {
                        let api = api.clone();
                        self.debug
                            .line(|| format!("{} is used: its {route} answers 200", shown(&api)));
                        return Ok(api);
                    }
                    Check::Unauthorized => return Err(self.unauthorized(api, false)),
                    Check::Refused(why) => {
                        self.debug.line(|| format!("{}: {route}: {why}", shown(api)));
                        if !reasons.contains(&why) {
                            reasons.push(why);
                        }
                    }
                }
            }
        }
        let of_endpoint = |(api, reasons): (&Url, &Vec<String>)| format!("{}: {}", shown(api), reasons.join(", "));
        Err(CallError::NoLeader {
            endpoints: self.apis.iter().map(shown).collect::<Vec<_>>().join(" "),
            reasons: self
                .apis
                .iter()
                .zip(&tried)
                .map(of_endpoint)
                .collect::<Vec<_>>()
                .join("; "),
        })
    }

    async fn check(&self, api: &Url, route: &str) -> Check {
        let answer = self
            .prepare(route_of(api, &[route.to_owned()]), false)
            .timeout(CHECK_DEADLINE)
            .send()
            .await;
        match answer {
            Ok(answer) if answer.status() == StatusCode::OK => Check::Leads,
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => Check::Unauthorized,
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => Check::Refused("it does not lead".to_owned()),
            Ok(answer) => Check::Refused(reason_in(answer).await),
            Err(error) if error.is_timeout() => {
                Check::Refused(format!("no answer within {} s", CHECK_DEADLINE.as_secs()))
            }
            Err(error) => Check::Refused(causes(&error)),
        }
    }
}

/// What an answer without a leader says: its message, or its status.
async fn reason_in(answer: Response) -> String {
    let (status, member) = (answer.status(), member_of(&answer));
    let text = text_of(answer, MAX_REASON).await.unwrap_or_default();
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    match json.get("Message").and_then(Value::as_str) {
        Some(message) => format!("{}: {message}", status.as_u16()),
        None => format!("{}{member}", status.as_u16()),
    }
}
