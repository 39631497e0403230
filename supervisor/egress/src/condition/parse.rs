//! From words to the syntax tree of the `cel` crate.
//!
//! The crate's own parser is made by a generator and takes as much stack as the text asks for; this one reads a part of
//! the language, and how deep it goes is bounded before it goes there.

use cel::common::ast::{CallExpr, Expr, IdedExpr, ListExpr, LiteralValue, SelectExpr, operators};

use super::lex::{Placed, Token, tokens};
use super::{ConditionError, MAX_DEPTH, MAX_NODES, MAX_TOKENS};

/// A tree, and where each of its nodes stands: the number of a node is its place in the list.
#[derive(Debug)]
pub(super) struct Parsed {
    pub tree: IdedExpr,
    pub places: Vec<usize>,
}

pub(super) fn parse(text: &str) -> Result<Parsed, ConditionError> {
    let mut parser =
        Parser { text, tokens: tokens(text, MAX_TOKENS)?, next: 0, places: Vec::new(), depth: 0 };
    let tree = parser.choice()?;
    if *parser.peek() != Token::End {
        return Err(parser.unexpected("an operator or the end of the condition"));
    }
    Ok(Parsed { tree, places: parser.places })
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Placed<'a>>,
    next: usize,
    places: Vec<usize>,
    depth: usize,
}

/// Binary operators by how tightly they bind; all of a row are read from left to right.
const LEVELS: [&[(&str, &str)]; 3] = [
    &[
        ("==", operators::EQUALS),
        ("!=", operators::NOT_EQUALS),
        ("<=", operators::LESS_EQUALS),
        (">=", operators::GREATER_EQUALS),
        ("<", operators::LESS),
        (">", operators::GREATER),
        ("in", operators::IN),
    ],
    &[("+", operators::ADD), ("-", operators::SUBSTRACT)],
    &[("*", operators::MULTIPLY), ("/", operators::DIVIDE), ("%", operators::MODULO)],
];
const RESERVED: [&str; 18] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "var",
    "while",
];

impl<'a> Parser<'a> {
    fn peek(&self) -> &Token<'a> {
        self.tokens.get(self.next).map_or(&Token::End, |(token, _)| token)
    }

    fn place(&self) -> usize {
        self.tokens.get(self.next).map_or(self.text.len(), |(_, place)| *place)
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = match self.peek() {
            Token::Sign(found) => *found == sign,
            Token::Word(found) => *found == sign,
            _ => false,
        };
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), ConditionError> {
        if self.takes(sign) { Ok(()) } else { Err(self.unexpected(sign)) }
    }

    fn unexpected(&self, allowed: &str) -> ConditionError {
        let was = match self.peek() {
            Token::Word(word) => super::quote(word),
            Token::Int(value) => format!("the number {value}"),
            Token::Text(_) => "a string".to_owned(),
            Token::Sign(sign) => format!("{sign:?}"),
            Token::End => "the end".to_owned(),
        };
        ConditionError::at(self.text, self.place(), was, allowed)
    }

    fn node(&mut self, place: usize, expr: Expr) -> Result<IdedExpr, ConditionError> {
        if self.places.len() == MAX_NODES {
            let allowed = format!("at most {MAX_NODES} operators, fields and values");
            return Err(ConditionError::at(self.text, place, "a longer condition", allowed));
        }
        self.places.push(place);
        Ok(IdedExpr { id: self.places.len() as u64 - 1, expr })
    }

    fn call(&mut self, place: usize, name: &str, args: Vec<IdedExpr>) -> Result<IdedExpr, ConditionError> {
        self.node(place, Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }))
    }

    /// One level further in; every way that leads the parser back to its beginning goes through here.
    fn deeper<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, ConditionError>,
    ) -> Result<T, ConditionError> {
        if self.depth == MAX_DEPTH {
            let allowed = format!("at most {MAX_DEPTH} levels");
            return Err(ConditionError::at(self.text, self.place(), "a deeper condition", allowed));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn choice(&mut self) -> Result<IdedExpr, ConditionError> {
        let condition = self.logic("||", operators::LOGICAL_OR)?;
        let place = self.place();
        if !self.takes("?") {
            return Ok(condition);
        }
        let yes = self.deeper(|parser| parser.logic("||", operators::LOGICAL_OR))?;
        self.expect(":")?;
        let no = self.deeper(Self::choice)?;
        self.call(place, operators::CONDITIONAL, vec![condition, yes, no])
    }

    fn logic(&mut self, sign: &str, name: &str) -> Result<IdedExpr, ConditionError> {
        let below = |parser: &mut Self| match sign {
            "||" => parser.logic("&&", operators::LOGICAL_AND),
            _ => parser.binary(0),
        };
        let mut terms = vec![below(self)?];
        let mut places = Vec::new();
        loop {
            places.push(self.place());
            if !self.takes(sign) {
                return self.balanced(name, terms, &places);
            }
            terms.push(below(self)?);
        }
    }

    /// Long chains make flat trees.
    fn balanced(
        &mut self,
        name: &str,
        mut terms: Vec<IdedExpr>,
        places: &[usize],
    ) -> Result<IdedExpr, ConditionError> {
        if terms.len() == 1 {
            return Ok(terms.swap_remove(0));
        }
        let half = terms.len().div_ceil(2);
        let right = terms.split_off(half);
        let left = self.balanced(name, terms, &places[..half - 1])?;
        let right = self.balanced(name, right, &places[half..])?;
        self.call(places[half - 1], name, vec![left, right])
    }

    fn binary(&mut self, level: usize) -> Result<IdedExpr, ConditionError> {
        let Some(row) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        let mut count = 0;
        loop {
            let place = self.place();
            let Some((_, name)) = row.iter().find(|(sign, _)| self.takes(sign)) else { return Ok(left) };
            count += 1;
            if count == MAX_DEPTH {
                let allowed = format!("at most {MAX_DEPTH} in a row");
                return Err(ConditionError::at(self.text, place, "a longer chain of operators", allowed));
            }
            let right = self.binary(level + 1)?;
            left = self.call(place, name, vec![left, right])?;
        }
    }

    fn unary(&mut self) -> Result<IdedExpr, ConditionError> {
        let place = self.place();
        let name = match self.peek() {
            Token::Sign("!") => operators::LOGICAL_NOT,
            Token::Sign("-") => operators::NEGATE,
            _ => return self.member(),
        };
        self.next += 1;
        match (name, self.peek()) {
            (_, Token::Sign("!" | "-")) => Err(self.unexpected("a value after one sign")),
            (operators::NEGATE, Token::Int(value)) => {
                let value = 0_i64.checked_sub_unsigned(*value);
                let value = value.ok_or_else(|| self.unexpected("a whole number of 64 bits"))?;
                self.next += 1;
                self.node(place, Expr::Literal(LiteralValue::Int(value.into())))
            }
            _ => {
                let value = self.member()?;
                self.call(place, name, vec![value])
            }
        }
    }

    fn member(&mut self) -> Result<IdedExpr, ConditionError> {
        let mut value = self.primary()?;
        let mut count = 0;
        while self.takes(".") {
            count += 1;
            let place = self.place();
            let Token::Word(field) = *self.peek() else {
                return Err(self.unexpected("a name after the dot"));
            };
            if count == MAX_DEPTH {
                return Err(self.unexpected("fewer names in a row"));
            }
            self.next += 1;
            let field = field.to_owned();
            value = if self.takes("(") {
                let args = self.list(")")?;
                let target = Some(Box::new(value));
                self.node(place, Expr::Call(CallExpr { func_name: field, target, args }))?
            } else {
                self.node(place, Expr::Select(SelectExpr { operand: Box::new(value), field, test: false }))?
            };
        }
        Ok(value)
    }

    /// Values up to a closing sign.
    fn list(&mut self, end: &'static str) -> Result<Vec<IdedExpr>, ConditionError> {
        let mut values = Vec::new();
        while !self.takes(end) {
            if !values.is_empty() {
                self.expect(",")?;
            }
            values.push(self.deeper(Self::choice)?);
        }
        Ok(values)
    }

    fn primary(&mut self) -> Result<IdedExpr, ConditionError> {
        let place = self.place();
        let literal = match self.peek() {
            Token::Int(value) => {
                let value =
                    i64::try_from(*value).map_err(|_| self.unexpected("a whole number of 64 bits"))?;
                LiteralValue::Int(value.into())
            }
            Token::Text(text) => LiteralValue::String(text.clone().into()),
            Token::Word("true") => LiteralValue::Boolean(true.into()),
            Token::Word("false") => LiteralValue::Boolean(false.into()),
            Token::Word(word) if !RESERVED.contains(word) => {
                let name = (*word).to_owned();
                self.next += 1;
                if self.takes("(") {
                    let args = self.list(")")?;
                    return self.called(place, name, args);
                }
                return self.node(place, Expr::Ident(name));
            }
            Token::Sign("(") => {
                self.next += 1;
                let inner = self.deeper(Self::choice)?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => {
                self.next += 1;
                let elements = self.list("]")?;
                return self.node(place, Expr::List(ListExpr::new(elements)));
            }
            _ => return Err(self.unexpected("a value, a field of ctx, or a parenthesis")),
        };
        self.next += 1;
        self.node(place, Expr::Literal(literal))
    }

    /// `has(a.b)` is the only macro that there is.
    fn called(
        &mut self,
        place: usize,
        name: String,
        args: Vec<IdedExpr>,
    ) -> Result<IdedExpr, ConditionError> {
        if name != operators::HAS {
            return self.call(place, &name, args);
        }
        match <[IdedExpr; 1]>::try_from(args) {
            Ok([IdedExpr { id, expr: Expr::Select(select) }]) => {
                Ok(IdedExpr { id, expr: Expr::Select(SelectExpr { test: true, ..select }) })
            }
            _ => Err(ConditionError::at(self.text, place, "has", "has(ctx.user.name) and its like")),
        }
    }
}
