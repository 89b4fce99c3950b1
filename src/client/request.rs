//! Requests and answers of the API, and the URLs of endpoints.

use reqwest::Url;
use serde_json::Value;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Parts of the path below `/api`.
    pub path: Vec<String>,
    /// Parameters.
    pub query: Vec<(&'static str, String)>,
    /// Path and parameters as the user wrote them, already encoded; replaces the two above.
    pub written: Option<String>,
    /// It changes something: it is not repeated after it was sent.
    pub mutates: bool,
}

impl Request {
    /// Its URL at an endpoint.
    pub(super) fn url(&self, api: &Url) -> Url {
        if let Some(written) = &self.written {
            let (path, query) = written
                .split_once('?')
                .map_or((written.as_str(), None), |(path, query)| (path, Some(query)));
            let mut url = api.clone();
            url.set_path(&format!(
                "{}/{}",
                api.path().trim_end_matches('/'),
                path.trim_start_matches('/')
            ));
            url.set_query(query);
            return url;
        }
        let mut url = route_of(api, &self.path);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

/// The URL of a route at an endpoint.
pub(super) fn route_of(api: &Url, path: &[String]) -> Url {
    let mut url = api.clone();
    // Only a URL without a host has no path, and endpoints have one.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The body as received.
    pub text: String,
    /// The body as JSON.
    pub json: Value,
    /// Whether only a leader could have given it, and there was none.
    pub lacked_leader: bool,
}

impl Answer {
    /// `Details` of the envelope, or the bare value.
    pub fn details(&self) -> &Value {
        self.json
            .get("Details")
            .filter(|_| self.json.get("Code").is_some())
            .unwrap_or(&self.json)
    }
}

/// The URL of an API: `http://` and `/api` are added where they are missing.
pub(super) fn api_url(text: &str) -> Result<Url, String> {
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let trimmed = with_scheme.trim_end_matches('/');
    let complete = if trimmed.ends_with("/api") {
        trimmed.to_owned()
    } else {
        format!("{trimmed}/api")
    };
    // The parser's error quotes nothing of the text, which may hold a password.
    let url = Url::parse(&complete).map_err(|error| format!("an endpoint is not a URL: {error}"))?;
    if matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err(format!("an endpoint must be http or https, not {}", url.scheme()))
    }
}

/// A URL without user and password.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs without a host, which have no user either.
    url.set_username("").unwrap_or_default();
    url.set_password(None).unwrap_or_default();
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_completed_and_shown_without_its_password() {
        for (text, url) in [
            ("http://h1:3000", "http://h1:3000/api"),
            ("h1:3000", "http://h1:3000/api"),
            ("https://h1/db/api/", "https://h1/db/api"),
        ] {
            assert_eq!(api_url(text).unwrap().as_str(), url, "{text}");
        }
        assert!(api_url("ftp://h1").is_err());
        let url = api_url("http://me:secret@h1:3000").unwrap();
        assert_eq!(shown(&url), "http://h1:3000/api");
    }
}
