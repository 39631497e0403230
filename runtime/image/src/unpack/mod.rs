//! Unpacking happens in a confined process of its own, one per layer: `helper` is this side of it, `child`
//! the other; the rest runs in the child. So do removing trees (`remove`) and views of layers (`view`).

pub(crate) mod apply;
pub(crate) mod child;
mod confine;
mod content;
mod decompress;
pub(crate) mod give;
pub(crate) mod helper;
pub(crate) mod idmap;
mod leaf;
mod merge;
mod meta;
mod open;
mod path;
mod pool;
mod probe;
pub(crate) mod protocol;
mod remove;
mod shift;
pub(crate) mod tar;
mod tree;
mod view;
mod xattr;
