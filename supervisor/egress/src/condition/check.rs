//! Types: a condition that passes can fail only by what is absent, an overflow, or a division by zero.
//!
//! What is left of the language has no loops, makes no strings and no lists that are not written in it. So every node is
//! looked at once at most, and none costs more than the longest text.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};

use super::field::{FIELDS, Field, HAS, Kind};
use super::parse::Parsed;
use super::{ConditionError, MAX_TREE, quote};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int,
    Text,
}

impl Type {
    fn shown(self) -> &'static str {
        match self {
            Self::Bool => "a condition",
            Self::Int => "a number",
            Self::Text => "a string",
        }
    }
}

/// What a condition asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    pub host: bool,
    pub place: bool,
    pub request: bool,
}

/// Checks the tree, and puts one name where a field of `ctx` was spelled out.
pub(super) fn check(text: &str, parsed: &mut Parsed) -> Result<Uses, ConditionError> {
    let mut checker = Checker { text, places: &parsed.places, uses: Uses::default(), depth: 0 };
    match checker.of(&mut parsed.tree)? {
        Type::Bool => Ok(checker.uses),
        other => Err(checker.wrong(&parsed.tree, other.shown(), "something that is true or false")),
    }
}

struct Checker<'a> {
    text: &'a str,
    places: &'a [usize],
    uses: Uses,
    depth: usize,
}

impl Checker<'_> {
    fn wrong(&self, node: &IdedExpr, was: impl Into<String>, allowed: impl Into<String>) -> ConditionError {
        let place = usize::try_from(node.id).ok().and_then(|id| self.places.get(id)).copied();
        ConditionError::at(self.text, place.unwrap_or_default(), was, allowed)
    }

    fn of(&mut self, node: &mut IdedExpr) -> Result<Type, ConditionError> {
        if self.depth == MAX_TREE {
            return Err(self.wrong(node, "a deeper condition", format!("at most {MAX_TREE} levels")));
        }
        self.depth += 1;
        let found = self.inner(node);
        self.depth -= 1;
        found
    }

    fn inner(&mut self, node: &mut IdedExpr) -> Result<Type, ConditionError> {
        match &mut node.expr {
            Expr::Literal(LiteralValue::Boolean(_)) => Ok(Type::Bool),
            Expr::Literal(LiteralValue::Int(_)) => Ok(Type::Int),
            Expr::Literal(LiteralValue::String(_)) => Ok(Type::Text),
            Expr::Ident(_) | Expr::Select(_) => self.field(node),
            Expr::Call(call) => {
                let mut call = std::mem::take(call);
                let found = self.call(node, &mut call);
                node.expr = Expr::Call(call);
                found
            }
            _ => Err(self.wrong(node, "a list", "a list on the right of in")),
        }
    }

    fn field(&mut self, node: &mut IdedExpr) -> Result<Type, ConditionError> {
        let Some((path, test)) = spelled(&node.expr) else {
            return Err(self.wrong(node, "a field of something else", "fields of ctx"));
        };
        let Some(field) = FIELDS.iter().find(|field| field.path == path) else {
            return Err(self.wrong(node, quote(&path), known(&path)));
        };
        if test && !field.optional {
            let allowed =
                "has of ctx.workspace.template and of ctx.user.name; the other fields are always there";
            return Err(self.wrong(node, format!("has({path})"), allowed));
        }
        self.uses.host |= field.kind == Kind::Host;
        self.uses.place |= field.kind == Kind::Place;
        self.uses.request |= field.kind == Kind::Request;
        node.expr = Expr::Ident(if test { format!("{HAS}{path}") } else { path });
        Ok(if test { Type::Bool } else { field.of })
    }

    fn call(&mut self, node: &IdedExpr, call: &mut CallExpr) -> Result<Type, ConditionError> {
        if let Some(target) = &mut call.target {
            let name = call.func_name.as_str();
            if !["startsWith", "endsWith", "contains"].contains(&name) {
                let allowed = "startsWith, endsWith and contains";
                return Err(self.wrong(node, quote(name), allowed));
            }
            self.want(target, Type::Text)?;
            let [argument] = call.args.as_mut_slice() else {
                return Err(self.wrong(node, format!("{} values", call.args.len()), "one string"));
            };
            self.want(argument, Type::Text)?;
            return Ok(Type::Bool);
        }
        match (call.func_name.as_str(), call.args.as_mut_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [left, right]) => {
                self.want(left, Type::Bool)?;
                self.want(right, Type::Bool)
            }
            (operators::LOGICAL_NOT, [value]) => self.want(value, Type::Bool),
            (operators::NEGATE, [value]) => self.want(value, Type::Int),
            (operators::CONDITIONAL, [condition, yes, no]) => {
                self.want(condition, Type::Bool)?;
                let found = self.of(yes)?;
                self.want(no, found)
            }
            (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => self.same(left, right),
            (
                operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
                [left, right],
            ) => {
                let found = self.of(left)?;
                if found == Type::Bool {
                    return Err(self.wrong(left, found.shown(), "numbers or strings beside < <= > >="));
                }
                self.want(right, found)?;
                Ok(Type::Bool)
            }
            (
                operators::ADD
                | operators::SUBSTRACT
                | operators::MULTIPLY
                | operators::DIVIDE
                | operators::MODULO,
                [left, right],
            ) => {
                self.want(left, Type::Int)?;
                self.want(right, Type::Int)
            }
            (operators::IN, [value, list]) => self.member(value, list),
            _ => {
                let allowed = "has, and startsWith, endsWith and contains of a string";
                Err(self.wrong(node, quote(&call.func_name), allowed))
            }
        }
    }

    fn member(&mut self, value: &mut IdedExpr, list: &mut IdedExpr) -> Result<Type, ConditionError> {
        let found = self.of(value)?;
        let Expr::List(elements) = &mut list.expr else {
            return Err(self.wrong(list, "no list", "a list on the right of in, such as [80, 443]"));
        };
        let mut elements = std::mem::take(elements);
        for element in &mut elements.elements {
            if !matches!(element.expr, Expr::Literal(_)) {
                return Err(self.wrong(element, "no literal", "literals in a list"));
            }
            self.want(element, found)?;
        }
        list.expr = Expr::List(elements);
        Ok(Type::Bool)
    }

    fn same(&mut self, left: &mut IdedExpr, right: &mut IdedExpr) -> Result<Type, ConditionError> {
        let found = self.of(left)?;
        self.want(right, found)?;
        Ok(Type::Bool)
    }

    fn want(&mut self, node: &mut IdedExpr, wanted: Type) -> Result<Type, ConditionError> {
        let found = self.of(node)?;
        if found == wanted { Ok(found) } else { Err(self.wrong(node, found.shown(), wanted.shown())) }
    }
}

/// `a.b.c`, and whether it stands in a `has`.
fn spelled(expr: &Expr) -> Option<(String, bool)> {
    let mut names = Vec::new();
    let mut test = false;
    let mut next = expr;
    loop {
        match next {
            Expr::Ident(name) => {
                names.push(name.as_str());
                names.reverse();
                return Some((names.join("."), test));
            }
            Expr::Select(SelectExpr { operand, field, test: tested }) => {
                test |= tested;
                names.push(field);
                next = &operand.expr;
            }
            _ => return None,
        }
    }
}

/// The fields beside the one that was meant, else all.
fn known(path: &str) -> String {
    let group = path.rsplit_once('.').map_or("", |(group, _)| group);
    let beside = |field: &&Field| field.path.rsplit_once('.').is_some_and(|(of, _)| of == group);
    let mut paths: Vec<&str> = FIELDS.iter().filter(beside).map(|field| field.path).collect();
    if paths.is_empty() {
        paths = FIELDS.iter().map(|field| field.path).collect();
    }
    paths.join(", ")
}
