//! Asking by gRPC.

use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use weir_proto::envoy::{
    config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction},
    service::auth::v3::{
        CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
    },
};

use super::verdict::{Change, Denied, How, Passed, Verdict};
use crate::{
    config::{grpc_service::GrpcService, headers::Append},
    http::{
        call::{authorization::CHECK, grpc},
        stream::connection::Connection,
    },
    matcher::structs::object,
};

pub(super) async fn ask(connection: &Rc<Connection>, service: &GrpcService, question: &CheckRequest) -> Verdict {
    match grpc::unary::<CheckResponse>(connection.behalf(), service, CHECK, question).await {
        Ok(answer) => verdict(answer),
        Err(status) => {
            tracing::debug!(connection = connection.id, cluster = &*service.cluster, status, "authorization failed");
            Verdict::Failed(None)
        }
    }
}

fn verdict(answer: CheckResponse) -> Verdict {
    let metadata = answer.dynamic_metadata.as_ref().map(object).unwrap_or_default();
    let code = answer.status.as_ref().map_or(0, |status| status.code);
    match (code, answer.http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => {
            #[expect(deprecated, reason = "published services use it")]
            let own = ok.dynamic_metadata.as_ref().map(object);
            Verdict::Passed(Box::new(Passed { metadata: own.unwrap_or(metadata), ..passed(&ok) }))
        }
        (0, _) => Verdict::Passed(Box::new(Passed { metadata, ..Passed::default() })),
        (_, Some(HttpResponse::ErrorResponse(response))) => {
            let status = status_of(&response);
            // Without a status it says no more than that it has failed.
            Verdict::Failed(status.map(|status| Box::new(Denied { metadata, ..denied(&response, status) })))
        }
        (_, Some(HttpResponse::DeniedResponse(response))) => {
            let status = status_of(&response).unwrap_or(StatusCode::FORBIDDEN);
            Verdict::Denied(Box::new(Denied { metadata, ..denied(&response, status) }))
        }
        (_, _) => {
            let denied = denied(&DeniedHttpResponse::default(), StatusCode::FORBIDDEN);
            Verdict::Denied(Box::new(Denied { metadata, ..denied }))
        }
    }
}

fn status_of(response: &DeniedHttpResponse) -> Option<StatusCode> {
    let code = u16::try_from(response.status.as_ref()?.code).ok().filter(|code| *code > 0)?;
    StatusCode::from_u16(code).ok()
}

fn passed(ok: &OkHttpResponse) -> Passed {
    let mut passed = Passed::default();
    for option in &ok.headers {
        // As Envoy reads it: a header is set, or made longer where it is.
        let how = if appends(option) { How::Longer } else { How::Header(Append::OverwriteIfExistsOrAdd) };
        add(&mut passed.request, option, how, &mut passed.invalid);
    }
    for option in &ok.response_headers_to_add {
        let how = match option.append_action() {
            _ if appends(option) => Append::AppendIfExistsOrAdd,
            HeaderAppendAction::AppendIfExistsOrAdd => Append::AppendIfExistsOrAdd,
            HeaderAppendAction::AddIfAbsent => Append::AddIfAbsent,
            HeaderAppendAction::OverwriteIfExistsOrAdd => Append::OverwriteIfExistsOrAdd,
            HeaderAppendAction::OverwriteIfExists => Append::OverwriteIfExists,
        };
        add(&mut passed.response, option, How::Header(how), &mut passed.invalid);
    }
    passed.remove = ok.headers_to_remove.iter().filter_map(|name| name.parse().ok()).collect();
    let parameters = ok.query_parameters_to_set.iter();
    passed.set_parameters = parameters.map(|parameter| (parameter.key.clone(), parameter.value.clone())).collect();
    passed.remove_parameters.clone_from(&ok.query_parameters_to_remove);
    passed
}

#[expect(deprecated, reason = "published services use it")]
fn appends(option: &HeaderValueOption) -> bool {
    option.append == Some(true)
}

fn add(changes: &mut Vec<Change>, option: &HeaderValueOption, how: How, invalid: &mut bool) {
    let Some(header) = &option.header else { return };
    let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &*header.raw_value };
    match Change::new(&header.key, value, how) {
        Some(change) => changes.push(change),
        None => *invalid = true,
    }
}

fn denied(response: &DeniedHttpResponse, status: StatusCode) -> Denied {
    let (mut changes, mut invalid) = (Vec::new(), false);
    // As in Envoy, what would make a header longer is left out: there is none yet.
    for option in response.headers.iter().filter(|option| !appends(option)) {
        add(&mut changes, option, How::Header(Append::AppendIfExistsOrAdd), &mut invalid);
    }
    Denied {
        status,
        headers: changes.into_iter().map(|change| (change.name, change.value)).collect(),
        body: Bytes::copy_from_slice(response.body.as_bytes()),
        metadata: serde_json::Map::new(),
        invalid,
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::{envoy::r#type::v3::HttpStatus, google::rpc::Status};

    use super::*;

    fn answer(code: i32, response: Option<HttpResponse>) -> Verdict {
        let status = Some(Status { code, ..Status::default() });
        verdict(CheckResponse { status, http_response: response, ..CheckResponse::default() })
    }

    #[test]
    fn an_answer_passes_denies_or_fails() {
        let with = |code| DeniedHttpResponse { status: Some(HttpStatus { code }), ..DeniedHttpResponse::default() };
        assert!(matches!(answer(0, None), Verdict::Passed(_)));
        assert!(matches!(answer(7, None), Verdict::Denied(denied) if denied.status == StatusCode::FORBIDDEN));
        assert!(matches!(
            answer(7, Some(HttpResponse::DeniedResponse(with(401)))),
            Verdict::Denied(denied) if denied.status == StatusCode::UNAUTHORIZED
        ));
        assert!(matches!(
            answer(13, Some(HttpResponse::ErrorResponse(with(503)))),
            Verdict::Failed(Some(denied)) if denied.status == StatusCode::SERVICE_UNAVAILABLE
        ));
        assert!(matches!(answer(13, Some(HttpResponse::ErrorResponse(with(0)))), Verdict::Failed(None)));
    }
}
