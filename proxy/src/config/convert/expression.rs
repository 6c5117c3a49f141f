//! Expressions (CEL), as texts or parsed.

use weir_proto::{
    envoy::config::core::v3::CelExpressionConfig,
    google::api::expr::v1alpha1::{self as proto, constant::ConstantKind, expr::ExprKind},
};

use super::{context::Context, fields::sub};
use crate::{
    cel::{Expression, Options, Syntax, Value},
    config::error::Error,
};

/// Of a text.
pub(super) fn text(
    cx: &mut Context,
    text: &str,
    config: Option<&CelExpressionConfig>,
    at: &str,
    field: &str,
) -> Result<Expression, Error> {
    let options = options(cx, config, at)?;
    Expression::parse(text, options).map_err(|error| Error::at(sub(at, field), error))
}

/// Of what was parsed.
pub(super) fn parsed(
    cx: &mut Context,
    message: &proto::Expr,
    config: Option<&CelExpressionConfig>,
    at: &str,
    field: &str,
) -> Result<Expression, Error> {
    let options = options(cx, config, at)?;
    Expression::new(&syntax(message), options).map_err(|error| Error::at(sub(at, field), error))
}

fn options(cx: &mut Context, config: Option<&CelExpressionConfig>, at: &str) -> Result<Options, Error> {
    let Some(config) = config else { return Ok(Options::default()) };
    cx.only(config, &sub(at, "cel_config"), &["enable_string_conversion", "enable_string_concat"], &[])?;
    Ok(Options { string_conversion: config.enable_string_conversion, string_concat: config.enable_string_concat })
}

fn syntax(message: &proto::Expr) -> Syntax {
    let all = |list: &[proto::Expr]| list.iter().map(syntax).collect();
    let empty = Syntax::Other("an empty expression is");
    match &message.expr_kind {
        None => empty,
        Some(ExprKind::ConstExpr(constant)) => match &constant.constant_kind {
            Some(constant) => literal(constant),
            None => empty,
        },
        Some(ExprKind::IdentExpr(name)) => Syntax::Name(name.name.clone()),
        Some(ExprKind::SelectExpr(select)) => Syntax::Select {
            operand: Box::new(select.operand.as_ref().map_or(empty, |operand| syntax(operand))),
            field: select.field.clone(),
            test: select.test_only,
        },
        Some(ExprKind::CallExpr(call)) => {
            let target = call.target.iter().map(|target| syntax(target));
            Syntax::Call(call.function.clone(), target.chain(call.args.iter().map(syntax)).collect())
        }
        Some(ExprKind::ListExpr(list)) => Syntax::List(all(&list.elements)),
        Some(ExprKind::StructExpr(_)) => Syntax::Other("maps and messages are"),
        Some(ExprKind::ComprehensionExpr(_)) => Syntax::Other("macros over lists and maps are"),
    }
}

fn literal(constant: &ConstantKind) -> Syntax {
    Syntax::Literal(match constant {
        ConstantKind::NullValue(_) => Value::Null,
        ConstantKind::BoolValue(value) => Value::Bool(*value),
        ConstantKind::Int64Value(value) => Value::Int(*value),
        ConstantKind::Uint64Value(value) => Value::Uint(*value),
        ConstantKind::DoubleValue(value) => Value::Double(*value),
        ConstantKind::StringValue(value) => Value::Text(value.clone().into()),
        ConstantKind::BytesValue(value) => Value::Bytes(value.to_vec().into()),
        #[expect(deprecated, reason = "to refuse them")]
        ConstantKind::DurationValue(_) | ConstantKind::TimestampValue(_) => {
            return Syntax::Other("constants of durations and timestamps are");
        }
    })
}
