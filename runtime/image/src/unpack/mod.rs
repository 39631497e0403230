//! Unpacking happens in a confined process of its own, one per layer: `helper` is this side of it, `child`
//! the other; the rest runs in the child.

pub(crate) mod apply;
pub(crate) mod child;
mod confine;
mod decompress;
pub(crate) mod give;
pub(crate) mod helper;
mod leaf;
mod meta;
mod path;
mod pool;
mod protocol;
mod remove;
pub(crate) mod tar;
mod tree;
mod xattr;
