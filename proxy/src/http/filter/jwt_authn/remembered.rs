//! Tokens that were good, of one worker: their signatures need not be verified again.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, sync::Weak};

use crate::{config::filter::jwt_authn::Provider, jwt::Token};

/// The tokens of a provider.
struct Kept {
    of: Weak<Provider>,
    tokens: HashMap<Box<str>, Rc<Token>>,
}

thread_local! {
    /// By the provider's number.
    static KEPT: RefCell<HashMap<u64, Kept>> = RefCell::default();
}

/// A token that was good.
pub(super) fn find(provider: &Provider, text: &str) -> Option<Rc<Token>> {
    provider.remembered?;
    KEPT.with_borrow(|kept| kept.get(&provider.number)?.tokens.get(text).cloned())
}

/// Keeps a good token, in the place of another one if there are too many.
pub(super) fn keep(provider: &Arc<Provider>, text: &str, token: Rc<Token>) {
    let Some(limits) = provider.remembered.filter(|limits| text.len() <= limits.longest) else { return };
    KEPT.with_borrow_mut(|kept| {
        if !kept.contains_key(&provider.number) {
            kept.retain(|_, kept| kept.of.strong_count() > 0);
        }
        let of = || Kept { of: Arc::downgrade(provider), tokens: HashMap::new() };
        let tokens = &mut kept.entry(provider.number).or_insert_with(of).tokens;
        if tokens.len() >= limits.tokens
            && let Some(any) = tokens.keys().next().cloned()
        {
            tokens.remove(&any);
        }
        tokens.insert(text.into(), token);
    });
}
