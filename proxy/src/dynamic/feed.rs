//! What a source hands on goes to the view.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::{descriptors::Descriptors, view::View};
use crate::{
    config::cell::Source,
    xds::{
        kind::Kind,
        update::{Consumer, Refused, Update},
    },
};

/// The view as the consumer of one source.
#[derive(Clone)]
pub(super) struct Feed {
    pub(super) view: Rc<RefCell<View>>,
    pub(super) source: Source,
    pub(super) descriptors: Rc<Descriptors>,
}

impl Consumer for Feed {
    fn update(&mut self, update: &Update) -> Result<(), Refused> {
        self.descriptors.keep();
        self.view.borrow_mut().update(&self.source, update)
    }

    fn timed_out(&mut self, kind: Kind, name: Option<&Arc<str>>) {
        self.view.borrow_mut().timed_out(&self.source, kind, name);
    }
}
