// SPDX-License-Identifier: GPL-2.0
/*
 * Objects that a call carries beside its data, sent and received by libgbinder:
 * buffers that point to others, files and arrays of files inside of them.
 *
 *	gbinder-objects service
 *	gbinder-objects TEST
 */

#include <gbinder.h>

#include <dirent.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEVICE "/dev/binder"
#define NAME "clients.objects"
#define IFACE "clients.IObjects"

#define LEAVES 5
#define FILES 3

enum { REVERSE_TREE = GBINDER_FIRST_CALL_TRANSACTION, REVERSE_FILES, HIDL, FILE_AND_BACK, EVERYTHING, CALL_BACK, OPEN_FILES };

union pointer {
	const void *to;
	guint64 value;
};

struct leaf {
	guint64 length;
	union pointer text;
};

struct tree {
	guint64 count;
	union pointer leaves;
	union pointer name;
	guint64 end;
};

#define END 0x656e64

static const char *const texts[LEAVES] = { "one", "", "three three three", "4", "five, which is the last" };

static GBinderServiceManager *manager;
static GBinderClient *client;
static GBinderLocalObject *served;

#define CHECK(condition, ...)                                     \
	do {                                                      \
		if (!(condition)) {                               \
			fprintf(stderr, "%s: ", #condition);      \
			fprintf(stderr, __VA_ARGS__);             \
			fprintf(stderr, "\n");                    \
			return FALSE;                             \
		}                                                 \
	} while (0)

/* The parts of a tree are copied: they have to live until the call is made. */
static void append_tree(GBinderWriter *writer, const char *name, const char *const *leaves, guint count)
{
	struct tree *tree = gbinder_writer_new0(writer, struct tree);
	struct leaf *array = gbinder_writer_malloc0(writer, MAX(count, 1) * sizeof(*array));
	GBinderParent parent;
	guint top, middle, i;

	tree->count = count;
	tree->leaves.to = array;
	tree->name.to = gbinder_writer_strdup(writer, name);
	tree->end = END;
	top = gbinder_writer_append_buffer_object(writer, tree, sizeof(*tree));
	parent.index = top;
	parent.offset = offsetof(struct tree, leaves);
	middle = gbinder_writer_append_buffer_object_with_parent(writer, array, count * sizeof(*array), &parent);
	for (i = 0; i < count; i++) {
		array[i].length = strlen(leaves[i]);
		array[i].text.to = gbinder_writer_strdup(writer, leaves[i]);
		parent.index = middle;
		parent.offset = i * sizeof(*array) + offsetof(struct leaf, text);
		gbinder_writer_append_buffer_object_with_parent(writer, array[i].text.to, array[i].length + 1, &parent);
	}
	parent.index = top;
	parent.offset = offsetof(struct tree, name);
	gbinder_writer_append_buffer_object_with_parent(writer, tree->name.to, strlen(name) + 1, &parent);
}

/* A buffer must be where the pointer to it says that it is. */
static gboolean skip_buffer(GBinderReader *reader, const void *at, gsize size)
{
	GBinderBuffer *buffer = gbinder_reader_read_buffer(reader);
	gboolean good = buffer && buffer->data == at && buffer->size == size;

	if (!good)
		fprintf(stderr, "buffer at %p of %zu instead of %p of %zu\n", buffer ? buffer->data : NULL,
			buffer ? buffer->size : 0, at, size);
	gbinder_buffer_free(buffer);
	return good;
}

/* The texts belong to the message that is read. */
static gboolean read_tree(GBinderReader *reader, const char **name, const char **leaves, guint count)
{
	GBinderBuffer *buffer = gbinder_reader_read_buffer(reader);
	const struct tree *tree;
	const struct leaf *array;
	guint i;

	CHECK(buffer && buffer->size == sizeof(*tree), "no tree");
	tree = buffer->data;
	gbinder_buffer_free(buffer);
	CHECK(tree->end == END && tree->count == count, "%" G_GUINT64_FORMAT " leaves", tree->count);
	array = tree->leaves.to;
	if (!skip_buffer(reader, array, count * sizeof(*array)))
		return FALSE;
	for (i = 0; i < count; i++) {
		leaves[i] = array[i].text.to;
		if (!skip_buffer(reader, leaves[i], array[i].length + 1))
			return FALSE;
		CHECK(strlen(leaves[i]) == array[i].length, "leaf %u is \"%s\"", i, leaves[i]);
	}
	*name = tree->name.to;
	return skip_buffer(reader, *name, strlen(*name) + 1);
}

/* Files and as many numbers, in the way of a native handle. */
static void append_files(GBinderWriter *writer, const int *files, guint count)
{
	GBinderHidlHandle *handle = gbinder_writer_new0(writer, GBinderHidlHandle);
	GBinderFds *fds = gbinder_writer_malloc0(writer, sizeof(*fds) + 2 * count * sizeof(int));
	int *values = (int *)(fds + 1);
	GBinderParent parent = { .offset = GBINDER_HIDL_HANDLE_VALUE_OFFSET };
	guint i;

	fds->version = GBINDER_HIDL_FDS_VERSION;
	fds->num_fds = count;
	fds->num_ints = count;
	for (i = 0; i < count; i++) {
		values[i] = files[i];
		values[count + i] = 1000 + i;
	}
	handle->data.fds = fds;
	handle->owns_handle = TRUE;
	parent.index = gbinder_writer_append_buffer_object(writer, handle, sizeof(*handle));
	gbinder_writer_append_fds(writer, fds, &parent);
}

/* The files belong to the message: they are closed with it. */
static gboolean read_files(GBinderReader *reader, int *files, guint count)
{
	const GBinderHidlHandle *handle = gbinder_reader_read_hidl_struct(reader, GBinderHidlHandle);
	const gsize size = sizeof(GBinderFds) + 2 * count * sizeof(int);
	const GBinderFds *fds;
	const int *values;
	guint64 told;
	guint i;

	CHECK(handle, "no handle");
	fds = handle->data.fds;
	CHECK(gbinder_reader_read_uint64(reader, &told) && told == size, "size");
	if (!skip_buffer(reader, fds, size))
		return FALSE;
	CHECK(fds->num_fds == count && fds->num_ints == count, "%u files", fds->num_fds);
	values = (const int *)(fds + 1);
	for (i = 0; i < count; i++) {
		files[i] = values[i];
		CHECK(values[count + i] == (int)(1000 + i), "number %u is %d", i, values[count + i]);
	}
	return TRUE;
}

static gboolean says(int file, const char *wanted)
{
	char text[64] = "";
	ssize_t length = recv(file, text, sizeof(text) - 1, MSG_DONTWAIT);

	CHECK(length >= 0 && !strcmp(text, wanted), "file %d says \"%s\" and not \"%s\"", file, text, wanted);
	return TRUE;
}

static int open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/*
 * Every reply has a number first, as those of HIDL and AIDL have: the C driver
 * takes no buffer that stands at offset 0 for the parent of another.
 */
static gboolean serve_tree(GBinderReader *reader, GBinderWriter *writer, guint count)
{
	const char *leaves[LEAVES], *reversed[LEAVES], *name;
	guint i;

	if (!read_tree(reader, &name, leaves, count))
		return FALSE;
	for (i = 0; i < count; i++)
		reversed[i] = leaves[count - 1 - i];
	append_tree(writer, name, reversed, count);
	return TRUE;
}

static gboolean serve_files(GBinderReader *reader, GBinderWriter *writer, guint count)
{
	int files[FILES], copies[FILES] = { 0 };
	char text[16];
	guint i;

	CHECK(count <= FILES, "%u files", count);
	if (!read_files(reader, files, count))
		return FALSE;
	for (i = 0; i < count; i++) {
		CHECK(send(files[i], text, sprintf(text, "served %u", i), 0) > 0, "file %d", files[i]);
		copies[count - 1 - i] = dup(files[i]);
	}
	append_files(writer, copies, count);
	for (i = 0; i < count; i++)
		gbinder_writer_add_cleanup(writer, (GDestroyNotify)(void (*)(void))close, GINT_TO_POINTER(copies[i]));
	return TRUE;
}

static gboolean serve_hidl(GBinderReader *reader, GBinderWriter *writer)
{
	const char *string = gbinder_reader_read_hidl_string_c(reader);
	char **strings = gbinder_reader_read_hidl_string_vec(reader);

	CHECK(string && strings, "not what was expected");
	gbinder_writer_append_hidl_string_copy(writer, string);
	gbinder_writer_append_hidl_string_vec(writer, (const char **)strings, -1);
	gbinder_writer_add_cleanup(writer, (GDestroyNotify)g_strfreev, strings);
	return TRUE;
}

static gboolean serve_file(GBinderReader *reader, GBinderWriter *writer)
{
	int file = gbinder_reader_read_fd(reader);

	CHECK(file >= 0, "no file");
	gbinder_writer_append_fd(writer, file);
	return TRUE;
}

static gboolean serve_everything(GBinderReader *reader, GBinderWriter *writer)
{
	GBinderRemoteObject *object;
	gboolean good;

	good = serve_file(reader, writer) && serve_tree(reader, writer, LEAVES);
	object = good ? gbinder_reader_read_object(reader) : NULL;
	CHECK(object, "no object");
	gbinder_remote_object_unref(object);
	/* Not theirs: the library cannot read an object that comes home. */
	gbinder_writer_append_local_object(writer, served);
	/* The library cannot read on behind an array of files. */
	return serve_hidl(reader, writer) && serve_files(reader, writer, FILES);
}

/* Sends the caller's own object a tree, and sends back what comes of it. */
static gboolean serve_call_back(GBinderReader *reader, GBinderWriter *writer)
{
	GBinderRemoteObject *object = gbinder_reader_read_object(reader);
	GBinderClient *client = gbinder_client_new(object, IFACE);
	GBinderLocalRequest *request = gbinder_client_new_request(client);
	GBinderRemoteReply *reply;
	GBinderWriter out;
	GBinderReader in;
	gboolean good;
	int status;

	gbinder_local_request_init_writer(request, &out);
	append_tree(&out, "called back", texts, LEAVES);
	reply = gbinder_client_transact_sync_reply(client, REVERSE_TREE, request, &status);
	CHECK(reply && !status, "status %d", status);
	gbinder_remote_reply_init_reader(reply, &in);
	gbinder_reader_read_int32(&in, NULL);
	good = serve_tree(&in, writer, LEAVES);
	gbinder_remote_reply_unref(reply);
	gbinder_local_request_unref(request);
	gbinder_client_unref(client);
	gbinder_remote_object_unref(object);
	return good;
}

static GBinderLocalReply *handle(GBinderLocalObject *object, GBinderRemoteRequest *request, guint code, guint flags,
				 int *status, void *data)
{
	GBinderLocalReply *reply = gbinder_local_object_new_reply(object);
	GBinderReader reader;
	GBinderWriter writer;
	gboolean good = TRUE;
	gint32 count = 0;

	gbinder_remote_request_init_reader(request, &reader);
	gbinder_local_reply_init_writer(reply, &writer);
	gbinder_writer_append_int32(&writer, 0);
	switch (code) {
	case REVERSE_TREE:
		good = serve_tree(&reader, &writer, LEAVES);
		break;
	case REVERSE_FILES:
		good = gbinder_reader_read_int32(&reader, &count) && serve_files(&reader, &writer, count);
		break;
	case HIDL:
		good = serve_hidl(&reader, &writer);
		break;
	case FILE_AND_BACK:
		good = serve_file(&reader, &writer);
		break;
	case EVERYTHING:
		good = serve_everything(&reader, &writer);
		break;
	case CALL_BACK:
		good = serve_call_back(&reader, &writer);
		break;
	case OPEN_FILES:
		gbinder_writer_append_int32(&writer, open_files());
		break;
	default:
		good = FALSE;
	}
	*status = good ? GBINDER_STATUS_OK : GBINDER_STATUS_FAILED;
	if (!good)
		g_clear_pointer(&reply, gbinder_local_reply_unref);
	return reply;
}

static GBinderRemoteReply *call(guint code, GBinderLocalRequest *request, GBinderReader *reader)
{
	int status;
	GBinderRemoteReply *reply = gbinder_client_transact_sync_reply(client, code, request, &status);

	gbinder_local_request_unref(request);
	if (!reply || status) {
		fprintf(stderr, "the call failed: %d\n", status);
		return NULL;
	}
	gbinder_remote_reply_init_reader(reply, reader);
	gbinder_reader_read_int32(reader, NULL);
	return reply;
}

static GBinderLocalRequest *new_request(GBinderWriter *writer)
{
	GBinderLocalRequest *request = gbinder_client_new_request(client);

	gbinder_local_request_init_writer(request, writer);
	return request;
}

static gboolean is_reversed(GBinderReader *reader, const char *wanted)
{
	const char *leaves[LEAVES], *name;
	guint i;

	if (!read_tree(reader, &name, leaves, LEAVES))
		return FALSE;
	CHECK(!strcmp(name, wanted), "the name is \"%s\"", name);
	for (i = 0; i < LEAVES; i++)
		CHECK(!strcmp(leaves[i], texts[LEAVES - 1 - i]), "leaf %u is \"%s\"", i, leaves[i]);
	return TRUE;
}

static gboolean test_buffers(void)
{
	GBinderWriter writer;
	GBinderReader reader;
	GBinderRemoteReply *reply;
	GBinderLocalRequest *request = new_request(&writer);
	gboolean good;

	append_tree(&writer, "a tree", texts, LEAVES);
	reply = call(REVERSE_TREE, request, &reader);
	good = reply && is_reversed(&reader, "a tree");
	gbinder_remote_reply_unref(reply);
	return good;
}

static int count_theirs(void)
{
	GBinderWriter writer;
	GBinderReader reader;
	GBinderRemoteReply *reply = call(OPEN_FILES, new_request(&writer), &reader);
	gint32 count = -1;

	if (reply)
		gbinder_reader_read_int32(&reader, &count);
	gbinder_remote_reply_unref(reply);
	return count;
}

static void append_connected(GBinderWriter *writer, int *ours, guint count)
{
	int theirs[FILES] = { 0 }, pair[2];
	guint i;

	for (i = 0; i < count; i++) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
			abort();
		ours[i] = pair[0];
		theirs[i] = pair[1];
	}
	append_files(writer, theirs, count);
	for (i = 0; i < count; i++)
		gbinder_writer_add_cleanup(writer, (GDestroyNotify)(void (*)(void))close, GINT_TO_POINTER(theirs[i]));
}

/* What they wrote arrived, and what comes back are the same files in reverse. */
static gboolean are_reversed(GBinderReader *reader, const int *ours, guint count)
{
	int back[FILES];
	char text[16];
	guint i;

	if (!read_files(reader, back, count))
		return FALSE;
	for (i = 0; i < count; i++) {
		sprintf(text, "served %u", i);
		if (!says(ours[i], text))
			return FALSE;
		CHECK(send(back[count - 1 - i], "again", 5, 0) == 5, "file %u", i);
		if (!says(ours[i], "again"))
			return FALSE;
	}
	return TRUE;
}

static gboolean files_and_back(guint count)
{
	GBinderWriter writer;
	GBinderReader reader;
	GBinderRemoteReply *reply;
	GBinderLocalRequest *request = new_request(&writer);
	int ours[FILES];
	gboolean good;

	gbinder_writer_append_int32(&writer, count);
	append_connected(&writer, ours, count);
	reply = call(REVERSE_FILES, request, &reader);
	good = reply && are_reversed(&reader, ours, count);
	gbinder_remote_reply_unref(reply);
	while (count--)
		close(ours[count]);
	return good;
}

static gboolean test_fd_array(void)
{
	int before, theirs, round;

	/* The first call of all opens what is opened once. */
	if (!files_and_back(FILES))
		return FALSE;
	before = open_files();
	theirs = count_theirs();
	for (round = 0; round < 20; round++)
		if (!files_and_back(FILES))
			return FALSE;
	CHECK(open_files() == before, "%d files and not %d", open_files(), before);
	CHECK(count_theirs() == theirs, "%d files there and not %d", count_theirs(), theirs);
	return TRUE;
}

static gboolean test_empty_fd_array(void)
{
	return files_and_back(0);
}

static void append_hidl(GBinderWriter *writer)
{
	gbinder_writer_append_hidl_string(writer, "a string");
	gbinder_writer_append_hidl_string_vec(writer, (const char **)texts, LEAVES);
}

static gboolean is_hidl(GBinderReader *reader)
{
	const char *string = gbinder_reader_read_hidl_string_c(reader);
	char **strings = gbinder_reader_read_hidl_string_vec(reader);
	guint i;

	CHECK(string && !strcmp(string, "a string"), "the string is \"%s\"", string);
	CHECK(strings && g_strv_length(strings) == LEAVES, "the array");
	for (i = 0; i < LEAVES; i++)
		CHECK(!strcmp(strings[i], texts[i]), "string %u is \"%s\"", i, strings[i]);
	g_strfreev(strings);
	return TRUE;
}

static gboolean test_hidl(void)
{
	GBinderWriter writer;
	GBinderReader reader;
	GBinderRemoteReply *reply;
	GBinderLocalRequest *request = new_request(&writer);
	gboolean good;

	append_hidl(&writer);
	reply = call(HIDL, request, &reader);
	good = reply && is_hidl(&reader);
	gbinder_remote_reply_unref(reply);
	return good;
}

/* It is another number for the same file. */
static gboolean is_file(GBinderReader *reader, int ours)
{
	int back = gbinder_reader_read_fd(reader);

	CHECK(back >= 0 && send(back, "back", 4, 0) == 4, "file %d", back);
	return says(ours, "back");
}

static gboolean file_and_back(void)
{
	GBinderWriter writer;
	GBinderReader reader;
	GBinderRemoteReply *reply;
	GBinderLocalRequest *request = new_request(&writer);
	gboolean good;
	int pair[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "no sockets");
	gbinder_writer_append_fd(&writer, pair[1]);
	close(pair[1]);
	reply = call(FILE_AND_BACK, request, &reader);
	good = reply && is_file(&reader, pair[0]);
	gbinder_remote_reply_unref(reply);
	close(pair[0]);
	return good;
}

static gboolean test_fd(void)
{
	int before, theirs, round;

	if (!file_and_back())
		return FALSE;
	before = open_files();
	theirs = count_theirs();
	for (round = 0; round < 20; round++)
		if (!file_and_back())
			return FALSE;
	CHECK(open_files() == before, "%d files and not %d", open_files(), before);
	CHECK(count_theirs() == theirs, "%d files there and not %d", count_theirs(), theirs);
	return TRUE;
}

static gboolean test_everything(void)
{
	GBinderWriter writer;
	GBinderReader reader;
	GBinderRemoteReply *reply;
	GBinderRemoteObject *object = NULL;
	GBinderLocalRequest *request = new_request(&writer);
	GBinderLocalObject *local = gbinder_servicemanager_new_local_object(manager, IFACE, handle, NULL);
	gboolean good;
	int pair[2], ours[FILES];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "no sockets");
	gbinder_writer_append_fd(&writer, pair[1]);
	append_tree(&writer, "of everything", texts, LEAVES);
	gbinder_writer_append_local_object(&writer, local);
	append_hidl(&writer);
	append_connected(&writer, ours, FILES);
	reply = call(EVERYTHING, request, &reader);
	good = reply && is_file(&reader, pair[0]) && is_reversed(&reader, "of everything");
	good = good && gbinder_reader_read_nullable_object(&reader, &object) && object;
	good = good && is_hidl(&reader) && are_reversed(&reader, ours, FILES);
	gbinder_remote_object_unref(object);
	gbinder_remote_reply_unref(reply);
	gbinder_local_object_unref(local);
	return good;
}

static gboolean called_back;

static void on_reply(GBinderClient *from, GBinderRemoteReply *reply, int status, void *loop)
{
	const char *leaves[LEAVES], *name;
	GBinderReader reader;
	guint i;

	g_main_loop_quit(loop);
	if (!reply || status) {
		fprintf(stderr, "the call failed: %d\n", status);
		return;
	}
	gbinder_remote_reply_init_reader(reply, &reader);
	gbinder_reader_read_int32(&reader, NULL);
	called_back = read_tree(&reader, &name, leaves, LEAVES);
	/* Reversed here and reversed there. */
	for (i = 0; called_back && i < LEAVES; i++)
		called_back = !strcmp(leaves[i], texts[i]);
}

/* The library handles calls in the main loop, so nothing may wait there for one that is called back. */
static gboolean test_call_back(void)
{
	GBinderWriter writer;
	GBinderLocalRequest *request = new_request(&writer);
	GBinderLocalObject *local = gbinder_servicemanager_new_local_object(manager, IFACE, handle, NULL);
	GMainLoop *loop = g_main_loop_new(NULL, FALSE);

	gbinder_writer_append_local_object(&writer, local);
	gbinder_client_transact(client, CALL_BACK, 0, request, on_reply, NULL, loop);
	gbinder_local_request_unref(request);
	g_main_loop_run(loop);
	g_main_loop_unref(loop);
	gbinder_local_object_unref(local);
	return called_back;
}

static const struct {
	const char *name;
	gboolean (*run)(void);
} tests[] = {
	{ "buffers", test_buffers },       { "fd", test_fd },
	{ "fd_array", test_fd_array },     { "empty_fd_array", test_empty_fd_array },
	{ "hidl", test_hidl },             { "everything", test_everything },
	{ "call_back", test_call_back },
};

static int serve(void)
{
	int status;

	served = gbinder_servicemanager_new_local_object(manager, IFACE, handle, NULL);
	status = gbinder_servicemanager_add_service_sync(manager, NAME, served);
	if (status) {
		fprintf(stderr, "the service manager says %d\n", status);
		return 1;
	}
	puts("ready");
	fflush(stdout);
	g_main_loop_run(g_main_loop_new(NULL, FALSE));
	return 0;
}

int main(int argc, char **argv)
{
	GBinderRemoteObject *remote;
	int status;
	guint i;

	manager = gbinder_servicemanager_new(DEVICE);
	if (argc != 2 || !manager || !gbinder_servicemanager_wait(manager, 30000)) {
		fprintf(stderr, "usage: gbinder-objects service|TEST (and a service manager on " DEVICE ")\n");
		return 2;
	}
	if (!strcmp(argv[1], "service"))
		return serve();
	remote = gbinder_servicemanager_get_service_sync(manager, NAME, &status);
	if (!remote) {
		fprintf(stderr, "there is no service " NAME "\n");
		return 2;
	}
	client = gbinder_client_new(remote, IFACE);
	for (i = 0; i < G_N_ELEMENTS(tests); i++)
		if (!strcmp(argv[1], tests[i].name))
			return !tests[i].run();
	fprintf(stderr, "no test %s\n", argv[1]);
	return 2;
}
