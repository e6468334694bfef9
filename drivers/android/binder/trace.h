/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM binder_rs

/* When each event happens, and what its fields are, stands in sys/trace.rs. */
#if !defined(_BINDER_RS_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _BINDER_RS_TRACE_H

#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(binder_rs_codes, TP_PROTO(u32 code), TP_ARGS(code),
	TP_STRUCT__entry(__field(u32, code)), TP_fast_assign(__entry->code = code;),
	TP_printk("code=%#x", __entry->code));
DEFINE_EVENT(binder_rs_codes, binder_rs_command, TP_PROTO(u32 code), TP_ARGS(code));
DEFINE_EVENT(binder_rs_codes, binder_rs_return, TP_PROTO(u32 code), TP_ARGS(code));

#define SENT_PROTO \
	TP_PROTO(u32 debug_id, u32 target_node, int to_proc, int to_thread, bool reply, u32 code, u32 flags)
#define SENT_ARGS TP_ARGS(debug_id, target_node, to_proc, to_thread, reply, code, flags)
DECLARE_EVENT_CLASS(binder_rs_transactions, SENT_PROTO, SENT_ARGS,
	TP_STRUCT__entry(__field(u32, debug_id) __field(u32, target_node) __field(int, to_proc)
		__field(int, to_thread) __field(bool, reply) __field(u32, code) __field(u32, flags)),
	TP_fast_assign(__entry->debug_id = debug_id; __entry->target_node = target_node; __entry->to_proc = to_proc;
		__entry->to_thread = to_thread; __entry->reply = reply; __entry->code = code; __entry->flags = flags;),
	TP_printk("debug_id=%u target_node=%u to_proc=%d to_thread=%d reply=%d code=%#x flags=%#x",
		__entry->debug_id, __entry->target_node, __entry->to_proc, __entry->to_thread, __entry->reply,
		__entry->code, __entry->flags));
DEFINE_EVENT(binder_rs_transactions, binder_rs_transaction, SENT_PROTO, SENT_ARGS);
DEFINE_EVENT(binder_rs_transactions, binder_rs_transaction_received, SENT_PROTO, SENT_ARGS);

#define BUFFER_PROTO TP_PROTO(int proc, u32 debug_id, size_t offset, size_t size)
#define BUFFER_ARGS TP_ARGS(proc, debug_id, offset, size)
DECLARE_EVENT_CLASS(binder_rs_buffers, BUFFER_PROTO, BUFFER_ARGS,
	TP_STRUCT__entry(__field(int, proc) __field(u32, debug_id) __field(size_t, offset) __field(size_t, size)),
	TP_fast_assign(__entry->proc = proc; __entry->debug_id = debug_id; __entry->offset = offset; __entry->size = size;),
	TP_printk("proc=%d debug_id=%u offset=%#zx size=%zu", __entry->proc, __entry->debug_id, __entry->offset,
		__entry->size));
DEFINE_EVENT(binder_rs_buffers, binder_rs_buffer_alloc, BUFFER_PROTO, BUFFER_ARGS);
DEFINE_EVENT(binder_rs_buffers, binder_rs_buffer_alloc_failed, BUFFER_PROTO, BUFFER_ARGS);
DEFINE_EVENT(binder_rs_buffers, binder_rs_buffer_free, BUFFER_PROTO, BUFFER_ARGS);

#define PAGES_PROTO TP_PROTO(int proc, size_t first, size_t pages)
#define PAGES_ARGS TP_ARGS(proc, first, pages)
DECLARE_EVENT_CLASS(binder_rs_pages, PAGES_PROTO, PAGES_ARGS,
	TP_STRUCT__entry(__field(int, proc) __field(size_t, first) __field(size_t, pages)),
	TP_fast_assign(__entry->proc = proc; __entry->first = first; __entry->pages = pages;),
	TP_printk("proc=%d first=%zu pages=%zu", __entry->proc, __entry->first, __entry->pages));
DEFINE_EVENT(binder_rs_pages, binder_rs_page_alloc, PAGES_PROTO, PAGES_ARGS);
DEFINE_EVENT(binder_rs_pages, binder_rs_page_map, PAGES_PROTO, PAGES_ARGS);
DEFINE_EVENT(binder_rs_pages, binder_rs_lru_add, PAGES_PROTO, PAGES_ARGS);
DEFINE_EVENT(binder_rs_pages, binder_rs_lru_del, PAGES_PROTO, PAGES_ARGS);
DEFINE_EVENT(binder_rs_pages, binder_rs_zap, PAGES_PROTO, PAGES_ARGS);
DEFINE_EVENT(binder_rs_pages, binder_rs_reclaim, PAGES_PROTO, PAGES_ARGS);

#endif

#define TRACE_INCLUDE_PATH .
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
