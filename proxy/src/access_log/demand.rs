//! Which headers and numbers the formats and the filters of access logs ask for.

use super::{
    AccessLog,
    format::{Bytes, Field, Selected, Span},
    header_name::{GRPC_STATUS, HeaderName, ORIGINAL_HOST, ORIGINAL_PATH, REQUEST_ID},
    wanted::Wanted,
};
use crate::cel::Attribute;

impl Wanted {
    /// What `logs` want.
    pub fn by(logs: &[AccessLog]) -> Self {
        let mut wanted = Self::default();
        for log in logs {
            log.format.each_field(&mut |field| wanted.add(field));
            if let Some(filter) = &log.filter {
                filter.each_header(&mut |name| wanted.add_each(name));
                filter.each_attribute(&mut |attribute| wanted.add_attribute(attribute));
                if filter.samples() {
                    wanted.add_request(&HeaderName::Plain(REQUEST_ID));
                }
                if filter.looks_at_grpc_status() {
                    wanted.add_status();
                }
            }
        }
        wanted
    }

    fn add(&mut self, field: &Field) {
        match field {
            Field::Request { names, .. } => names.each(&mut |name| self.add_request(name)),
            Field::Response(names) => names.each(&mut |name| add_plain(&mut self.response, name)),
            Field::Trailer(names) => names.each(&mut |name| add_plain(&mut self.trailers, name)),
            Field::Path { selected, .. } => {
                if *selected != Selected::Path {
                    self.add_request(&HeaderName::Plain(ORIGINAL_PATH));
                }
                self.add_request(&HeaderName::Path);
            }
            Field::QueryParameter { .. } => self.add_request(&HeaderName::Path),
            Field::Query(selected) => {
                if *selected == Selected::Original {
                    self.add_request(&HeaderName::Plain(ORIGINAL_PATH));
                }
                self.add_request(&HeaderName::Path);
            }
            Field::RequestedServerName { host, .. } if host.is_some() => {
                self.add_request(&HeaderName::Authority);
                self.add_request(&HeaderName::Plain(ORIGINAL_HOST));
            }
            Field::GrpcStatus(_) => self.add_status(),
            Field::StreamId => self.add_request(&HeaderName::Plain(REQUEST_ID)),
            Field::Cel(cel) => cel.each_attribute(&mut |attribute| self.add_attribute(attribute)),
            Field::Size(_) => self.sizes = true,
            Field::Bytes(Bytes::Body, _) => {}
            Field::Bytes(..) => self.meters = true,
            Field::Between { .. } | Field::Duration(Span::RequestSent | Span::ResponseSent | Span::PoolReady) => {
                self.times = true;
            }
            _ => {}
        }
    }

    fn add_attribute(&mut self, attribute: &Attribute) {
        match attribute {
            Attribute::Path | Attribute::UrlPath | Attribute::Query => self.add_request(&HeaderName::Path),
            Attribute::Host => self.add_request(&HeaderName::Authority),
            Attribute::Scheme => self.add_request(&HeaderName::Scheme),
            Attribute::Method => self.add_request(&HeaderName::Method),
            Attribute::Header(name) => self.add_each(&HeaderName::Plain(name.clone())),
            Attribute::Size => self.add_each(&HeaderName::Plain(http::header::CONTENT_LENGTH)),
            Attribute::GrpcStatus => self.add_status(),
            Attribute::ResponseHeader(name) => add_plain(&mut self.response, &HeaderName::Plain(name.clone())),
            Attribute::ResponseTrailer(name) => add_plain(&mut self.trailers, &HeaderName::Plain(name.clone())),
            _ => {}
        }
    }

    fn add_status(&mut self) {
        self.add_request(&HeaderName::Plain(http::header::CONTENT_TYPE));
        for list in [&mut self.response, &mut self.trailers] {
            add_plain(list, &HeaderName::Plain(GRPC_STATUS));
        }
    }

    fn add_request(&mut self, name: &HeaderName) {
        if !self.request.contains(name) {
            self.request.push(name.clone());
        }
    }

    fn add_each(&mut self, name: &HeaderName) {
        match name {
            HeaderName::Plain(name) => {
                if !self.each.contains(name) {
                    self.each.push(name.clone());
                }
            }
            pseudo => self.add_request(pseudo),
        }
    }
}

fn add_plain(list: &mut Vec<http::HeaderName>, name: &HeaderName) {
    if let HeaderName::Plain(name) = name
        && !list.contains(name)
    {
        list.push(name.clone());
    }
}
