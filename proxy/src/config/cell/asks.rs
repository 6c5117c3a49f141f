//! Names that requests ask a cell for: what is in it is only known once somebody has asked.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Clients choose the names: more of them than this are not asked for, and what a server says of them is what it says
/// unasked.
pub(super) const MOST: usize = 10_000;

/// What has been asked for.
#[derive(Debug, Default)]
pub(super) struct Asks(Mutex<HashMap<Arc<str>, Ask>>);

#[derive(Debug)]
enum Ask {
    /// Resolves whoever waits for it.
    Open(watch::Sender<bool>),
    /// The source has said what there is, if only that there is nothing.
    Answered,
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
    /// Asks for a name, and says whether nobody did before. None: there is nothing to wait for.
    pub(super) fn ask(&self, name: &Arc<str>) -> Option<(Asked, bool)> {
        let mut asks = self.0.lock();
        match asks.get(name) {
            Some(Ask::Answered) => None,
            Some(Ask::Open(answer)) => Some((Asked(answer.subscribe()), false)),
            None if asks.len() >= MOST => None,
            None => {
                let (answer, asked) = watch::channel(false);
                asks.insert(name.clone(), Ask::Open(answer));
                Some((Asked(asked), true))
            }
        }
    }

    /// The source has answered: whoever waits for this name goes on. What nobody has asked for is of no interest.
    pub(super) fn answer(&self, name: &str) {
        if let Some(ask) = self.0.lock().get_mut(name)
            && let Ask::Open(answer) = std::mem::replace(ask, Ask::Answered)
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
        asks.answer("a");
        let (first, news) = asks.ask(&name).unwrap();
        let (second, again) = asks.ask(&name).unwrap();
        assert_eq!((news, again), (true, false));
        asks.answer("b");
        assert!(!*first.0.borrow());
        asks.answer("a");
        first.answered().await;
        second.answered().await;
        assert!(asks.ask(&name).is_none());
    }

    #[test]
    fn there_is_an_end_to_the_names_that_are_asked_for() {
        let asks = Asks::default();
        let asked: Vec<_> = (0..MOST).map(|number| asks.ask(&number.to_string().into())).collect();
        assert!(asked.iter().all(|asked| asked.as_ref().is_some_and(|(_, news)| *news)));
        assert!(asks.ask(&"one more".into()).is_none());
        assert!(asks.ask(&"0".into()).is_some());
    }
}
