//! `tinkex_graph`: a loss as a graph of tensor operations.
//!
//! The functions that add nodes return their number, or −1 after a mistake. The graph keeps the first mistake, which
//! creating the loss reports, and ignores what is added after it.

use std::ffi::c_char;

use super::border::{self, Out, Result};
use super::error::tinkex_error;
use super::object::{self, Kind, Object};
use super::options::{self, Holder, Sticky};
use super::pending::{submit, tinkex_pending};
use super::result::Outcome;
use super::service::{Service, tinkex_service};
use super::steps::{Op, Steps};
use super::tinkex_code;

pub type tinkex_graph = Object<Graph>;

/// A loss that is being built.
pub struct Graph(Sticky<Steps>);

impl Kind for Graph {
    const NAME: &'static str = "graph";
}

impl Holder for Graph {
    type Options = Steps;

    fn sticky(&self) -> &Sticky<Steps> {
        &self.0
    }
}

const MISTAKE: i32 = -1;

/// The body of a function that adds a node.
///
/// # Safety
/// As for [`object::get`].
unsafe fn add(graph: *mut tinkex_graph, add: impl FnOnce(&mut Steps) -> Result<i32>) -> i32 {
    let mut node = MISTAKE;
    // SAFETY: promised by the caller.
    unsafe {
        options::set(graph, |steps| {
            node = add(steps)?;
            Ok(())
        });
    }
    node
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_new(
    name: *const c_char,
    logprobs_dims: i32,
    out: *mut *mut tinkex_graph,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, std::ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let steps = Steps::new(border::text(name, "name")?, logprobs_dims)?;
            out.set(Object::make(Graph(Sticky::new(steps))));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_free(graph: *mut *mut tinkex_graph) {
    // SAFETY: see the header.
    unsafe { object::free(graph) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_logprobs(graph: *mut tinkex_graph) -> i32 {
    // SAFETY: see the header.
    unsafe { add(graph, |_| Ok(Steps::LOGPROBS)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_input(graph: *mut tinkex_graph, name: *const c_char, dims: i32) -> i32 {
    // SAFETY: see the header.
    unsafe {
        add(graph, |steps| steps.input(border::text(name, "name")?, border::unsigned(dims.into(), "dims")?))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_number(graph: *mut tinkex_graph, value: f64) -> i32 {
    // SAFETY: see the header.
    unsafe { add(graph, |steps| steps.add(Op::Number(value), &[])) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_unary(graph: *mut tinkex_graph, op: *const c_char, a: i32) -> i32 {
    // SAFETY: see the header.
    unsafe { add(graph, |steps| steps.add(Op::unary(border::text(op, "op")?)?, &[("a", a)])) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_binary(
    graph: *mut tinkex_graph,
    op: *const c_char,
    a: i32,
    b: i32,
) -> i32 {
    // SAFETY: see the header.
    unsafe { add(graph, |steps| steps.add(Op::binary(border::text(op, "op")?)?, &[("a", a), ("b", b)])) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_select(graph: *mut tinkex_graph, mask: i32, yes: i32, no: i32) -> i32 {
    // SAFETY: see the header.
    unsafe { add(graph, |steps| steps.add(Op::Select, &[("mask", mask), ("yes", yes), ("no", no)])) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_clamp(graph: *mut tinkex_graph, a: i32, min: f64, max: f64) -> i32 {
    // SAFETY: see the header.
    unsafe { add(graph, |steps| steps.add(Op::clamp(min, max)?, &[("a", a)])) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_along(
    graph: *mut tinkex_graph,
    op: *const c_char,
    a: i32,
    dim: i64,
) -> i32 {
    // SAFETY: see the header.
    unsafe { add(graph, |steps| steps.add(Op::along(border::text(op, "op")?, dim)?, &[("a", a)])) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_slice(graph: *mut tinkex_graph, a: i32, start: i64, end: i64) -> i32 {
    // SAFETY: see the header.
    unsafe { add(graph, |steps| steps.add(Op::Slice(start, end), &[("a", a)])) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_metric(graph: *mut tinkex_graph, name: *const c_char, node: i32) {
    // SAFETY: see the header.
    unsafe { options::set(graph, |steps| steps.metric(border::text(name, "name")?, node)) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_graph_result(graph: *mut tinkex_graph, node: i32) {
    // SAFETY: see the header.
    unsafe { options::set(graph, |steps| steps.result(node)) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_create_loss(
    service: *const tinkex_service,
    graph: *const tinkex_graph,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, std::ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let service = Service::client(service)?;
            let steps = object::get(graph)?.0.read(|steps| Ok(steps.clone()))?;
            submit(&out, service.create_custom_loss(steps.build()?), Outcome::Loss)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ffi::code;

    #[test]
    fn the_first_mistake_is_kept() {
        let (mut graph, mut error) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the pointers are valid, and the texts end with NUL.
        unsafe {
            assert_eq!(tinkex_graph_new(c"g".as_ptr(), 1, &mut graph, &mut error), code::OK);
            let logprobs = tinkex_graph_logprobs(graph);
            let sum = tinkex_graph_unary(graph, c"sum".as_ptr(), logprobs);
            assert_eq!((logprobs, sum), (0, 1));
            assert_eq!(tinkex_graph_unary(graph, c"cos".as_ptr(), logprobs), MISTAKE);
            assert_eq!(tinkex_graph_unary(graph, c"exp".as_ptr(), 99), MISTAKE);
            tinkex_graph_result(graph, sum);
            let fault = object::get(graph).unwrap().0.read(Steps::build).unwrap_err();
            assert_eq!(fault.code(), code::NAME);
            tinkex_graph_free(&mut graph);
            assert!(graph.is_null() && error.is_null());
        }
    }
}
