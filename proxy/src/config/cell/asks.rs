//! Names that requests ask a cell for: what is in it is only known once somebody has asked.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Clients choose the names: where there are so many, those that lead nowhere are forgotten. More that lead somewhere, or are
/// waited for, are not asked for, and what a server says of them is what it says unasked.
pub(super) const MOST: usize = 10_000;

/// What has been asked for.
#[derive(Debug, Default)]
pub(super) struct Asks(Mutex<HashMap<Arc<str>, Ask>>);

#[derive(Debug)]
enum Ask {
    /// Resolves whoever waits for it.
    Open(watch::Sender<bool>),
    /// The source has said what there is, or that there is nothing.
    Answered { found: bool },
}

impl Ask {
    /// Nobody would miss it.
    fn is_idle(&self) -> bool {
        match self {
            Self::Open(answer) => answer.receiver_count() == 0,
            Self::Answered { found } => !found,
        }
    }
}

/// What becomes of a question.
#[derive(Debug)]
pub(super) struct News {
    /// Nobody asked before.
    pub(super) first: bool,
    /// Names that nothing is to be said of any more.
    pub(super) forgotten: Vec<Arc<str>>,
}

/// A name that was asked for and is not answered yet.
#[derive(Debug)]
pub struct Asked(watch::Receiver<bool>);

impl Asked {
    /// Resolves when the source has answered, or nobody can any more.
    pub async fn answered(mut self) {
        let _ = self.0.wait_for(|answered| *answered).await;
    }
}

impl Asks {
    /// Asks for a name. None: there is nothing to wait for.
    pub(super) fn ask(&self, name: &Arc<str>) -> Option<(Asked, News)> {
        let mut asks = self.0.lock();
        match asks.get(name) {
            Some(Ask::Answered { .. }) => return None,
            Some(Ask::Open(answer)) => {
                return Some((Asked(answer.subscribe()), News { first: false, forgotten: Vec::new() }));
            }
            None => {}
        }
        let forgotten = match asks.len() >= MOST {
            true => asks.extract_if(|_, ask| ask.is_idle()).map(|(name, _)| name).collect(),
            false => Vec::new(),
        };
        if asks.len() >= MOST {
            return None;
        }
        let (answer, asked) = watch::channel(false);
        asks.insert(name.clone(), Ask::Open(answer));
        Some((Asked(asked), News { first: true, forgotten }))
    }

    /// The source has answered: whoever waits for this name goes on. What nobody has asked for is of no interest.
    pub(super) fn answer(&self, name: &str, found: bool) {
        if let Some(ask) = self.0.lock().get_mut(name)
            && let Ask::Open(answer) = std::mem::replace(ask, Ask::Answered { found })
        {
            answer.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_for_a_name_waits_for_its_first_answer_only() {
        let asks = Asks::default();
        let name: Arc<str> = "a".into();
        asks.answer("a", true);
        let (first, news) = asks.ask(&name).unwrap();
        let (second, again) = asks.ask(&name).unwrap();
        assert_eq!((news.first, again.first), (true, false));
        asks.answer("b", true);
        assert!(!*first.0.borrow());
        asks.answer("a", false);
        first.answered().await;
        second.answered().await;
        assert!(asks.ask(&name).is_none());
    }

    #[test]
    fn there_is_an_end_to_the_names_that_are_asked_for() {
        let asks = Asks::default();
        let ask = |name: usize| asks.ask(&name.to_string().into());
        let mut asked: Vec<_> = (0..MOST).map(ask).collect();
        assert!(asked.iter().all(|asked| asked.as_ref().is_some_and(|(_, news)| news.first)));
        assert!(ask(MOST).is_none());
        assert!(ask(0).is_some());
        // Those that are there stay, those that are not and those that nobody waits for make room.
        asks.answer("1", true);
        asks.answer("2", false);
        asked.truncate(MOST - 1);
        let (_one_more, news) = ask(MOST).unwrap();
        let mut forgotten = news.forgotten;
        forgotten.sort();
        assert_eq!((news.first, forgotten), (true, ["2", "9999"].map(Arc::from).to_vec()));
        assert!(ask(1).is_none());
        let (_two, news) = ask(2).unwrap();
        assert!(news.first);
        assert!(ask(MOST + 1).is_none());
    }
}
