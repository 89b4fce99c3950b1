//! Values that several shapes contain: addresses, positions, optional numbers, times.

use serde::Serialize;

use crate::domain::instance::BinlogCoordinates;
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

/// What Go writes for an unset time.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// Stands for a time without end: clients parse the field as a time.
pub(crate) const ENDLESS: &str = "9999-12-31T23:59:59Z";

/// An address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Key {
    pub(crate) hostname: String,
    pub(crate) port: u16,
}

impl From<&InstanceKey> for Key {
    fn from(key: &InstanceKey) -> Self {
        Self {
            hostname: key.hostname.clone(),
            port: key.port,
        }
    }
}

/// An address that may be missing. A missing one is empty with port 0.
pub(crate) fn key_or_empty(key: Option<&InstanceKey>) -> Key {
    key.map(Key::from).unwrap_or_default()
}

/// A position in a binary log (type 0) or relay log (type 1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Coordinates {
    log_file: String,
    log_pos: u64,
    r#type: u8,
}

impl Coordinates {
    pub(crate) fn binlog(position: Option<&BinlogCoordinates>) -> Self {
        position
            .map(|position| Self {
                log_file: position.file.clone(),
                log_pos: position.position,
                r#type: 0,
            })
            .unwrap_or_default()
    }

    pub(crate) fn relay_log(position: Option<&BinlogCoordinates>) -> Self {
        Self {
            r#type: 1,
            ..Self::binlog(position)
        }
    }
}

/// Go's `sql.NullInt64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NullInt {
    pub(super) int64: i64,
    pub(super) valid: bool,
}

impl From<Option<u64>> for NullInt {
    fn from(value: Option<u64>) -> Self {
        Self {
            int64: value.map(signed).unwrap_or_default(),
            valid: value.is_some(),
        }
    }
}

/// Go's `sql.NullBool`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NullBool {
    pub(crate) bool: bool,
    pub(crate) valid: bool,
}

/// A time as RFC 3339 in UTC with whole seconds, as all times of the API.
pub(crate) fn time_text(at: WallTime) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(
        |_| ENDLESS.to_owned(),
        |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

/// A count that JSON carries as a signed number.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(time_text(WallTime(1_795_249_223_999)), "2026-11-21T08:20:23Z");
        assert_eq!(time_text(WallTime(i64::MAX)), ENDLESS);
    }

    #[test]
    fn a_missing_number_is_zero_and_invalid() {
        assert_eq!(
            serde_json::to_string(&NullInt::from(None)).unwrap(),
            r#"{"Int64":0,"Valid":false}"#
        );
        assert_eq!(
            serde_json::to_string(&NullInt::from(Some(7))).unwrap(),
            r#"{"Int64":7,"Valid":true}"#
        );
    }
}
