//! Filters of the configuration on hosts and clusters.

use regex::Regex;

use crate::domain::key::InstanceKey;
use crate::domain::state::ClusterFilter;

/// A filter that is not a valid regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{filter}` is not a regular expression: {why}")]
pub struct InvalidFilter {
    /// The text of the filter.
    pub filter: String,
    /// The syntax error.
    pub why: String,
}

fn compile(text: &str) -> Result<Regex, InvalidFilter> {
    Regex::new(text).map_err(|error| {
        // The text of the error shows the expression on several lines; the last line has the reason.
        let why = error
            .to_string()
            .lines()
            .last()
            .unwrap_or_default()
            .trim()
            .trim_start_matches("error: ")
            .to_owned();
        InvalidFilter {
            filter: text.to_owned(),
            why,
        }
    })
}

/// Regular expressions on `host:port`. Without expressions nothing matches.
#[derive(Clone, Debug, Default)]
pub struct HostnameFilters(Vec<Regex>);

impl HostnameFilters {
    /// Compiles the texts. Empty texts are ignored, as in orchestrator.
    ///
    /// # Errors
    /// The first text that is not a regular expression.
    pub fn parse(texts: &[String]) -> Result<Self, InvalidFilter> {
        texts
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| compile(text))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The patterns.
    pub fn patterns(&self) -> &[Regex] {
        &self.0
    }

    /// Whether any of them matches the address.
    pub fn matches(&self, instance: &InstanceKey) -> bool {
        let text = instance.to_string();
        self.0.iter().any(|filter| filter.is_match(&text))
    }
}

/// The clusters for which recoveries are enabled: a name, an alias, `alias=x`, `alias~=x`, `*`, or a regular expression on the name.
/// Without filters nothing matches.
#[derive(Clone, Debug, Default)]
pub struct ClusterFilters {
    texts: Vec<String>,
    filters: Vec<ClusterFilter>,
}

impl ClusterFilters {
    /// Reads orchestrator's notation.
    ///
    /// # Errors
    /// The first text that is not a regular expression where one is needed.
    pub fn parse(texts: &[String]) -> Result<Self, InvalidFilter> {
        let filters = texts
            .iter()
            .filter_map(|text| match ClusterFilter::parse(text) {
                Ok(filter) => filter.map(Ok),
                Err(error) => Some(Err(InvalidFilter {
                    filter: text.clone(),
                    why: error.to_string(),
                })),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            texts: texts.to_vec(),
            filters,
        })
    }

    /// Whether any of them matches a cluster.
    pub fn matches(&self, name: &str, alias: &str) -> bool {
        self.filters.iter().any(|filter| filter.matches(name, alias))
    }

    /// The filters, for the policy.
    pub fn filters(&self) -> &[ClusterFilter] {
        &self.filters
    }

    /// The texts as configured.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(texts: &[&str]) -> ClusterFilters {
        ClusterFilters::parse(&texts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_cluster_is_matched_by_name_alias_pattern_or_star() {
        for (filter, matches) in [
            ("*", true),
            ("db1:3306", true),
            ("shop", true),
            ("alias=shop", true),
            ("alias=sho", false),
            ("alias~=^sh", true),
            ("^db[0-9]", true),
            ("other", false),
            ("", false),
        ] {
            assert_eq!(clusters(&[filter]).matches("db1:3306", "shop"), matches, "{filter}");
        }
        assert!(!clusters(&[]).matches("db1:3306", "shop"));
    }

    #[test]
    fn a_filter_that_is_no_pattern_is_named() {
        let error = HostnameFilters::parse(&["db[".to_owned()]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`db[` is not a regular expression: unclosed"),
            "{error}"
        );
    }
}
