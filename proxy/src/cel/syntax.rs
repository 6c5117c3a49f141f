//! Expressions as they are written: of a text, or of what was parsed elsewhere.

use cel::{
    common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue},
    parser::Parser,
};

use super::value::Value;

/// An expression as it is written.
#[derive(Clone, Debug)]
pub enum Syntax {
    /// A literal.
    Literal(Value<'static>),
    /// A name.
    Name(String),
    /// `operand.field`, or with `test` `has(operand.field)`.
    Select {
        /// Of what.
        operand: Box<Syntax>,
        /// Its field.
        field: String,
        /// Whether there is one.
        test: bool,
    },
    /// A function, or an operator by its name (`_==_`). The receiver is the first argument.
    Call(String, Vec<Syntax>),
    /// `[..]`.
    List(Vec<Syntax>),
    /// Anything else, by what it is.
    Other(&'static str),
}

/// Reads a text.
pub(super) fn parse(text: &str) -> Result<Syntax, String> {
    let parsed = Parser::new().parse(text).map_err(|errors| {
        let first = errors.errors.first().map(|error| format!("{} at {}:{}", error.msg, error.pos.0, error.pos.1));
        format!("bad expression: {}", first.unwrap_or_default().replace('\n', " "))
    })?;
    Ok(of(&parsed))
}

fn of(expression: &IdedExpr) -> Syntax {
    let all = |list: &[IdedExpr]| list.iter().map(of).collect();
    match &expression.expr {
        Expr::Literal(value) => literal(value),
        Expr::Ident(name) => Syntax::Name(name.clone()),
        Expr::Select(select) => {
            Syntax::Select { operand: Box::new(of(&select.operand)), field: select.field.clone(), test: select.test }
        }
        Expr::Call(call) => {
            let target = call.target.iter().map(|target| of(target));
            Syntax::Call(call.func_name.clone(), target.chain(call.args.iter().map(of)).collect())
        }
        Expr::List(list) => Syntax::List(all(&list.elements)),
        Expr::Comprehension(_) => Syntax::Other("macros over lists and maps are"),
        Expr::Map(map) => match map.entries.first().map(|entry| &entry.expr) {
            Some(EntryExpr::StructField(_)) => Syntax::Other("messages are"),
            _ => Syntax::Other("map literals are"),
        },
        Expr::Struct(_) => Syntax::Other("messages are"),
        Expr::Unspecified => Syntax::Other("an empty expression is"),
    }
}

fn literal(value: &LiteralValue) -> Syntax {
    Syntax::Literal(match value {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(value.inner().to_vec().into()),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => Value::Text(value.inner().to_owned().into()),
        LiteralValue::UInt(value) => Value::Uint(*value.inner()),
    })
}
