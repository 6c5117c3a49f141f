//! Names that requests ask a cell for: what is in it is only known once somebody has asked.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::chosen::Chosen;

/// What has been asked for.
#[derive(Debug, Default)]
pub(super) struct Asks(Mutex<Chosen<Ask>>);

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
    /// Asks for a name. Who is the first to do so has it noted, and names that nothing is to be said of any more: before
    /// anybody else can ask. None: there is nothing to wait for.
    pub(super) fn ask(&self, name: &Arc<str>, note: impl FnOnce(Vec<Arc<str>>)) -> Option<Asked> {
        let mut asks = self.0.lock();
        match asks.get_mut(name) {
            Some(Ask::Answered { .. }) => return None,
            Some(Ask::Open(answer)) => return Some(Asked(answer.subscribe())),
            None => {}
        }
        let (answer, waiting) = watch::channel(false);
        note(asks.add(name, Ask::Open(answer), Ask::is_idle)?);
        Some(Asked(waiting))
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
    use crate::config::cell::chosen::MOST;

    /// Asks, and gives what is noted, if anything.
    fn ask(asks: &Asks, name: &str) -> Option<(Asked, Option<Vec<Arc<str>>>)> {
        let mut noted = None;
        let asked = asks.ask(&name.into(), |forgotten| noted = Some(forgotten))?;
        Some((asked, noted))
    }

    #[tokio::test]
    async fn who_asks_for_a_name_waits_for_its_first_answer_only() {
        let asks = Asks::default();
        asks.answer("a", true);
        let (first, noted) = ask(&asks, "a").unwrap();
        let (second, again) = ask(&asks, "a").unwrap();
        assert_eq!((noted, again), (Some(Vec::new()), None));
        asks.answer("b", true);
        assert!(!*first.0.borrow());
        asks.answer("a", false);
        first.answered().await;
        second.answered().await;
        assert!(ask(&asks, "a").is_none());
    }

    #[test]
    fn there_is_an_end_to_the_names_that_are_asked_for() {
        let asks = Asks::default();
        let ask = |name: usize| ask(&asks, &name.to_string());
        let look = || asks.0.lock().look();
        let mut asked: Vec<_> = (0..MOST).map(ask).collect();
        assert!(asked.iter().all(|asked| asked.as_ref().is_some_and(|(_, noted)| noted.is_some())));
        assert!(ask(MOST).is_none());
        assert!(ask(0).is_some());
        // Those that are there stay, those that are not and those that nobody waits for make room.
        asks.answer("1", true);
        asks.answer("2", true);
        asks.answer("2", false);
        asked.truncate(MOST - 1);
        assert!(ask(MOST).is_none());
        look();
        let (_one_more, noted) = ask(MOST).unwrap();
        let mut forgotten = noted.unwrap();
        forgotten.sort();
        assert_eq!(forgotten, ["2", "9999"].map(Arc::from));
        assert!(ask(1).is_none());
        let (_two, noted) = ask(2).unwrap();
        assert!(noted.is_some());
        look();
        assert!(ask(MOST + 1).is_none());
    }
}
