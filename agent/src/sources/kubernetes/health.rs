//! How following the API server goes: since when it does not, and what to tell people.

use std::time::SystemTime;

use super::requests::Failure;

/// How following the objects of one kind goes.
#[derive(Debug)]
pub struct Health {
    resource: &'static str,
    failing: Option<(SystemTime, Failure)>,
}

impl Health {
    /// Nothing was heard yet.
    pub fn new(resource: &'static str) -> Self {
        Self { resource, failing: None }
    }

    /// The server answered.
    pub fn well(&mut self) {
        if let Some((since, _)) = self.failing.take() {
            let failed_for = since.elapsed().unwrap_or_default();
            tracing::info!(resource = self.resource, ?failed_for, "the API server answers again");
        }
    }

    /// It did not, or refused.
    pub fn failed(&mut self, failure: Failure) {
        let since = match &self.failing {
            Some((since, before)) if *before == failure => *since,
            Some((since, _)) => {
                tracing::debug!(resource = self.resource, %failure, "the API server still does not give what is asked");
                *since
            }
            None => {
                tracing::warn!(resource = self.resource, %failure, "what is known stays; tried again and again");
                SystemTime::now()
            }
        };
        self.failing = Some((since, failure));
    }

    /// What to tell people; none while it goes well.
    pub fn problem(&self) -> Option<String> {
        let (since, failure) = self.failing.as_ref()?;
        let resource = self.resource;
        let since = humantime::format_rfc3339_seconds(*since);
        Some(match failure {
            Failure::Unreachable(_) | Failure::Silent(_) => {
                format!("API server not reached since {since}: {failure} ({resource})")
            }
            Failure::Refused { .. } | Failure::NotFound => {
                format!("the API server refuses to give {resource} since {since}: {failure}")
            }
            Failure::Expired(_) | Failure::Unreadable(_) => {
                format!("what the API server gives as {resource} cannot be used since {since}: {failure}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_say_what_and_since_when() {
        let mut health = Health::new("pods");
        assert_eq!(health.problem(), None);
        let problem = |health: &Health| {
            let text = health.problem().unwrap();
            let (before, after) = text.split_once("since ").unwrap();
            format!("{before}since{}", &after["2026-11-21T00:00:00Z".len()..])
        };
        health.failed(Failure::Unreachable("Connection refused (os error 111)".to_owned()));
        assert_eq!(problem(&health), "API server not reached since: Connection refused (os error 111) (pods)");
        let (since, _) = health.failing.clone().unwrap();
        let message = "pods is forbidden: User \"weir\" cannot list resource \"pods\"".to_owned();
        health.failed(Failure::Refused { code: 403, message, retry_after: None });
        assert_eq!(
            problem(&health),
            "the API server refuses to give pods since: 403: pods is forbidden: User \"weir\" cannot list resource \
             \"pods\""
        );
        assert_eq!(health.failing.as_ref().unwrap().0, since, "it is one outage");
        health.failed(Failure::Unreadable("expected value at line 1 column 1".to_owned()));
        assert!(problem(&health).starts_with("what the API server gives as pods cannot be used since: unreadable"));
        health.well();
        assert_eq!(health.problem(), None);
    }
}
