/* iocpd-launcher.exe [OPTIONS] [--] PROGRAM ARGUMENTS...: starts the service, and passes a stop on to it.
 *
 * Why there is such a program: `docker stop` sends CTRL_SHUTDOWN_EVENT to a Windows container, and a process that has user32
 * loaded never sees it. Python has, once asyncio or uvicorn is imported. So this one owns the console's events. It imports
 * kernel32 alone, has no C runtime, and a test holds it to that.
 *
 *   --grace=SECONDS    how long after a stop the service may take to drain before it is killed (120)
 *   --log=FILE         the service's output is appended to FILE; at a start, a FILE of 16 MiB becomes FILE.1
 *   --service=NAME     run as the Windows service NAME: only the service control manager can start it so
 *
 * What PROGRAM finds in its environment:
 *
 *   IOCPD_STOP_EVENT   name of a manual-reset event. When it is set, drain and exit. Open it with SYNCHRONIZE.
 *   IOCPD_READY_EVENT  name of a manual-reset event. Set it once the listeners are up. Open it with EVENT_MODIFY_STATE.
 *
 *   stop       CTRL_C, CTRL_BREAK, CTRL_CLOSE, CTRL_LOGOFF, CTRL_SHUTDOWN, and a service's stop and preshutdown set the
 *              stop event. A second CTRL_C or CTRL_BREAK, 0.3 s after the first or later, kills the service. Windows itself
 *              ends who is told CTRL_CLOSE, CTRL_LOGOFF or CTRL_SHUTDOWN some 5 s later, unless it is set to wait longer.
 *   console    PROGRAM has a hidden console of its own, so no event reaches it but through here. Its output is passed on.
 *   job        Everything that PROGRAM has started ends with it, and with this process, however that ends.
 *   status     The service's own. 125: killed, because it had not ended in time, or by a second CTRL_C; 126: wrong usage or no
 *              resources; 127: PROGRAM could not be started.
 *
 * As a service it is Running once the ready event is set, StopPending with checkpoints while the service drains, and Stopped
 * with the service's status, so that recovery actions see a failure. What happened stands in the event log. advapi32 is
 * loaded only then.
 *
 * build.py beside this file compiles it.
 */
#include <windows.h>

enum { KILLED = 125, NO_START = 126, NOT_FOUND = 127 };
enum { DEFAULT_GRACE = 120, MOST_GRACE = 86400 };
enum { SAME_EVENT_MS = 300, PUMPS_MS = 5000, CHECKPOINT_MS = 1000, HINT_MS = 10000 };
enum { LOG_LIMIT = 16 << 20, TEXT = 512, LONG_PATH = 1024 };

/* The compiler may call these for a struct's zeros and copies. */
void *memset(void *to, int byte, size_t size) {
    volatile unsigned char *at = to;
    while (size--) *at++ = (unsigned char)byte;
    return to;
}

void *memcpy(void *to, const void *from, size_t size) {
    volatile unsigned char *at = to;
    const unsigned char *source = from;
    while (size--) *at++ = *source++;
    return to;
}

static HANDLE stop_event, ready_event, kill_event, ended_event;
static HANDLE job;
static volatile LONG stops;          /* CTRL_C and CTRL_BREAK events */
static volatile LONGLONG first_stop; /* of these, in milliseconds since the system's start */
static DWORD grace_ms = DEFAULT_GRACE * 1000;
static WCHAR *log_path, *service_name, *command;
static DWORD service_error; /* why there is no status of the service itself, or 0 */

/* ---- text ------------------------------------------------------------------------------------------------------- */

static DWORD length_of(const WCHAR *text) {
    DWORD length = 0;
    while (text[length]) length++;
    return length;
}

static BOOL starts_with(const WCHAR *text, const WCHAR *prefix) {
    while (*prefix)
        if (*text++ != *prefix++) return FALSE;
    return TRUE;
}

/* `room` is the whole of `to`; what does not fit is left out. */
static void append(WCHAR *to, DWORD room, const WCHAR *text) {
    DWORD at = length_of(to);
    while (*text && at + 1 < room) to[at++] = *text++;
    to[at] = 0;
}

static void append_number(WCHAR *to, DWORD room, ULONGLONG number, unsigned base) {
    WCHAR digits[24];
    int at = 23;
    digits[at] = 0;
    do digits[--at] = L"0123456789abcdef"[number % base];
    while (number /= base);
    append(to, room, digits + at);
}

/* ---- what is loaded only as a service ------------------------------------------------------------------------------ */

static struct {
    BOOL(WINAPI *dispatch)(const SERVICE_TABLE_ENTRYW *);
    SERVICE_STATUS_HANDLE(WINAPI *handle)(LPCWSTR, LPHANDLER_FUNCTION_EX, LPVOID);
    BOOL(WINAPI *set_status)(SERVICE_STATUS_HANDLE, SERVICE_STATUS *);
    HANDLE(WINAPI *open_log)(LPCWSTR, LPCWSTR);
    BOOL(WINAPI *report)(HANDLE, WORD, WORD, DWORD, PSID, WORD, DWORD, LPCWSTR *, LPVOID);
} advapi;

static SERVICE_STATUS_HANDLE status_handle;
static SERVICE_STATUS status = {.dwServiceType = SERVICE_WIN32_OWN_PROCESS};
static HANDLE event_log;

static BOOL load_advapi(void) {
    HMODULE module = LoadLibraryExW(L"advapi32.dll", NULL, LOAD_LIBRARY_SEARCH_SYSTEM32);
    if (!module) return FALSE;
#define TAKE(member, name) (advapi.member = (__typeof__(advapi.member))(void *)GetProcAddress(module, name))
    return TAKE(dispatch, "StartServiceCtrlDispatcherW") && TAKE(handle, "RegisterServiceCtrlHandlerExW") &&
           TAKE(set_status, "SetServiceStatus") && TAKE(open_log, "RegisterEventSourceW") && TAKE(report, "ReportEventW");
#undef TAKE
}

static void tell_manager(DWORD state) {
    if (!status_handle) return;
    status.dwCheckPoint =
        state != status.dwCurrentState || state == SERVICE_RUNNING || state == SERVICE_STOPPED ? 0 : status.dwCheckPoint + 1;
    status.dwCurrentState = state;
    status.dwWaitHint = state == SERVICE_START_PENDING || state == SERVICE_STOP_PENDING ? HINT_MS : 0;
    status.dwControlsAccepted = state == SERVICE_RUNNING ? SERVICE_ACCEPT_STOP | SERVICE_ACCEPT_PRESHUTDOWN : 0;
    advapi.set_status(status_handle, &status);
}

/* ---- saying what happened -------------------------------------------------------------------------------------------- */

/* One line on stderr, in one call, since the service's lines go there too; of a service, an entry in the event log. `code` is
 * left out when it is not wanted. */
static void say(WORD type, const WCHAR *text, const WCHAR *name, const DWORD *code) {
    WCHAR line[TEXT] = L"iocpd-launcher: ";
    const WCHAR *lines[1] = {line + length_of(line)};
    char bytes[3 * TEXT];
    DWORD written;
    int size;

    append(line, TEXT, text);
    if (name) append(line, TEXT - 16, name);
    if (code) {
        append(line, TEXT, L" ");
        append_number(line, TEXT, *code, 10);
    }
    if (event_log) {
        /* 1 or 3: EventCreate.exe, a part of Windows, has a message that is the text itself for each number up to 1000. What
         * installs the service names it as the source's EventMessageFile. */
        advapi.report(event_log, type, 0, type == EVENTLOG_ERROR_TYPE ? 3 : 1, NULL, 1, 0, lines, NULL);
        return;
    }
    size = WideCharToMultiByte(CP_UTF8, 0, line, -1, bytes, sizeof bytes, NULL, NULL);
    if (size <= 1) return;
    bytes[size - 1] = '\n';
    WriteFile(GetStdHandle(STD_ERROR_HANDLE), bytes, (DWORD)size, &written, NULL);
}

static void say_error(const WCHAR *text, const WCHAR *name) {
    DWORD error = GetLastError();
    WCHAR line[TEXT] = L"";
    append(line, TEXT, text);
    append(line, TEXT, name ? name : L"");
    append(line, TEXT, L": error");
    say(EVENTLOG_ERROR_TYPE, line, NULL, &error);
}

/* ---- being told to stop -------------------------------------------------------------------------------------------- */

static BOOL WINAPI on_console_event(DWORD event) {
    if (event == CTRL_C_EVENT || event == CTRL_BREAK_EVENT) {
        LONGLONG now = (LONGLONG)GetTickCount64();
        if (InterlockedIncrement(&stops) == 1) first_stop = now;
        else if (now - first_stop >= SAME_EVENT_MS) SetEvent(kill_event);
        SetEvent(stop_event);
        return TRUE;
    }
    if (event == CTRL_LOGOFF_EVENT && service_name) return TRUE; /* services see everybody's */
    SetEvent(stop_event);
    if (!service_name)
        say(EVENTLOG_WARNING_TYPE, L"Windows wants an end, and waits some 5 s for the drain unless it is set to wait longer",
            NULL, NULL);
    /* When a handler of these returns, the process ends. It ends when the service has, which is bounded. */
    WaitForSingleObject(ended_event, INFINITE);
    Sleep(PUMPS_MS);
    return TRUE;
}

static DWORD WINAPI on_control(DWORD control, DWORD type, LPVOID data, LPVOID context) {
    (void)type, (void)data, (void)context;
    if (control == SERVICE_CONTROL_INTERROGATE) return NO_ERROR;
    if (control != SERVICE_CONTROL_STOP && control != SERVICE_CONTROL_PRESHUTDOWN) return ERROR_CALL_NOT_IMPLEMENTED;
    SetEvent(stop_event); /* run()'s thread alone tells the manager */
    return NO_ERROR;
}

/* ---- the service's output -------------------------------------------------------------------------------------------- */

typedef struct {
    HANDLE from, to, thread;
} pump;

static DWORD WINAPI pump_all(LPVOID context) {
    pump *self = context;
    char data[2048];
    DWORD size, written;
    while (ReadFile(self->from, data, sizeof data, &size, NULL) && size)
        WriteFile(self->to, data, size, &written, NULL); /* when nobody reads any more, the service must not stop */
    return 0;
}

static HANDLE inheritable(HANDLE handle) {
    HANDLE copy = NULL;
    HANDLE self = GetCurrentProcess();
    if (!handle || handle == INVALID_HANDLE_VALUE) return NULL;
    DuplicateHandle(self, handle, self, &copy, 0, TRUE, DUPLICATE_SAME_ACCESS);
    return copy;
}

static HANDLE open_null(DWORD access) {
    SECURITY_ATTRIBUTES inherit = {sizeof inherit, NULL, TRUE};
    return CreateFileW(L"NUL", access, FILE_SHARE_READ | FILE_SHARE_WRITE, &inherit, OPEN_EXISTING, 0, NULL);
}

/* What the service writes to, in place of `own`: a console's handle is of no use in another console, so that goes through
 * a pipe. */
static HANDLE output(HANDLE own, pump *through) {
    SECURITY_ATTRIBUTES inherit = {sizeof inherit, NULL, TRUE};
    DWORD mode;
    HANDLE write;
    if (!own || own == INVALID_HANDLE_VALUE) return open_null(GENERIC_WRITE);
    if (!GetConsoleMode(own, &mode)) {
        HANDLE copy = inheritable(own);
        return copy ? copy : open_null(GENERIC_WRITE);
    }
    if (!CreatePipe(&through->from, &write, &inherit, 0)) return open_null(GENERIC_WRITE);
    SetHandleInformation(through->from, HANDLE_FLAG_INHERIT, 0);
    through->to = own;
    through->thread = CreateThread(NULL, 0, pump_all, through, 0, NULL);
    return write;
}

static HANDLE open_log_file(void) {
    SECURITY_ATTRIBUTES inherit = {sizeof inherit, NULL, TRUE};
    WIN32_FILE_ATTRIBUTE_DATA now;
    WCHAR old[LONG_PATH] = L"";
    HANDLE file;
    if (GetFileAttributesExW(log_path, GetFileExInfoStandard, &now) && (now.nFileSizeHigh || now.nFileSizeLow >= LOG_LIMIT)) {
        append(old, LONG_PATH, log_path);
        append(old, LONG_PATH, L".1");
        MoveFileExW(log_path, old, MOVEFILE_REPLACE_EXISTING);
    }
    file =
        CreateFileW(log_path, FILE_APPEND_DATA | FILE_READ_ATTRIBUTES | SYNCHRONIZE,
                    FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, &inherit, OPEN_ALWAYS, FILE_ATTRIBUTE_NORMAL, NULL);
    if (file == INVALID_HANDLE_VALUE) say_error(L"cannot open the log file ", log_path);
    return file;
}

/* ---- the service ---------------------------------------------------------------------------------------------------- */

/* Makes an event that did not exist, and puts its name in the environment. */
static HANDLE make_event(const WCHAR *variable, const WCHAR *what) {
    int tries;
    for (tries = 0; tries < 100; tries++) {
        WCHAR name[64] = L"Local\\iocpd-";
        LARGE_INTEGER now;
        HANDLE event;
        QueryPerformanceCounter(&now);
        append(name, 64, what);
        append(name, 64, L"-");
        append_number(name, 64, GetCurrentProcessId(), 10);
        append(name, 64, L"-");
        append_number(name, 64, (ULONGLONG)now.QuadPart, 16);
        SetLastError(0);
        event = CreateEventW(NULL, TRUE, FALSE, name);
        if (event && GetLastError() != ERROR_ALREADY_EXISTS) return SetEnvironmentVariableW(variable, name) ? event : NULL;
        if (event) CloseHandle(event);
        else if (GetLastError() != ERROR_ACCESS_DENIED && GetLastError() != ERROR_INVALID_HANDLE) return NULL;
    }
    return NULL;
}

static BOOL make_events_and_job(void) {
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limit = {0};
    limit.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
    return (stop_event = make_event(L"IOCPD_STOP_EVENT", L"stop")) &&
           (ready_event = make_event(L"IOCPD_READY_EVENT", L"ready")) && (kill_event = CreateEventW(NULL, TRUE, FALSE, NULL)) &&
           (ended_event = CreateEventW(NULL, TRUE, FALSE, NULL)) && (job = CreateJobObjectW(NULL, NULL)) &&
           SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limit, sizeof limit);
}

/* Waits until the program has ended, or must be; the time that this takes after a stop is bounded. */
static void see_to_its_end(HANDLE program) {
    /* The order matters: the first that is set is the one that WaitForMultipleObjects tells of. */
    HANDLE before[] = {program, kill_event, stop_event, ready_event};
    HANDLE after[] = {program, kill_event};
    DWORD found, events = 4;
    ULONGLONG until;

    for (;;) {
        found = WaitForMultipleObjects(events, before, FALSE, service_name && events == 4 ? CHECKPOINT_MS : INFINITE);
        if (found == WAIT_TIMEOUT) tell_manager(SERVICE_START_PENDING);
        else if (found == WAIT_OBJECT_0 + 3) {
            events = 3; /* it stays set */
            if (WaitForSingleObject(stop_event, 0) == WAIT_TIMEOUT) tell_manager(SERVICE_RUNNING);
            if (event_log) say(EVENTLOG_INFORMATION_TYPE, L"the service is ready", NULL, NULL);
        } else break;
    }
    if (found == WAIT_OBJECT_0 + 2) {
        say(EVENTLOG_INFORMATION_TYPE, L"stopping: the service drains", NULL, NULL);
        until = GetTickCount64() + grace_ms;
        do {
            ULONGLONG now = GetTickCount64();
            DWORD left = now < until ? (DWORD)(until - now) : 0;
            tell_manager(SERVICE_STOP_PENDING);
            found = WaitForMultipleObjects(2, after, FALSE, left < CHECKPOINT_MS ? left : CHECKPOINT_MS);
        } while (found == WAIT_TIMEOUT && GetTickCount64() < until);
    }
    if (found == WAIT_OBJECT_0) return;
    service_error = ERROR_PROCESS_ABORTED;
    say(EVENTLOG_ERROR_TYPE, found == WAIT_TIMEOUT ? L"killed: the service has not ended in time" : L"killed: told to stop again",
        NULL, NULL);
    TerminateJobObject(job, KILLED);
    WaitForSingleObject(program, PUMPS_MS);
}

/* The service from its start to its end; its status. */
static DWORD run(void) {
    STARTUPINFOW start = {.cb = sizeof start, .dwFlags = STARTF_USESTDHANDLES};
    PROCESS_INFORMATION started;
    pump pumps[2] = {{NULL, NULL, NULL}, {NULL, NULL, NULL}};
    DWORD code = KILLED;
    DWORD mode;
    int i;

    if (log_path) {
        start.hStdOutput = open_log_file();
        if (start.hStdOutput == INVALID_HANDLE_VALUE) return NO_START;
        start.hStdError = inheritable(start.hStdOutput);
    } else {
        start.hStdOutput = output(GetStdHandle(STD_OUTPUT_HANDLE), &pumps[0]);
        start.hStdError = output(GetStdHandle(STD_ERROR_HANDLE), &pumps[1]);
    }
    start.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    if (start.hStdInput == INVALID_HANDLE_VALUE || GetConsoleMode(start.hStdInput, &mode)) start.hStdInput = NULL;
    start.hStdInput = start.hStdInput ? inheritable(start.hStdInput) : open_null(GENERIC_READ);
    /* Its own handles must not live on in what the service starts. */
    for (i = 0; i < 3; i++) {
        static const DWORD own[3] = {STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE};
        SetHandleInformation(GetStdHandle(own[i]), HANDLE_FLAG_INHERIT, 0);
    }

    if (!CreateProcessW(NULL, command, NULL, NULL, TRUE, CREATE_NO_WINDOW | CREATE_SUSPENDED, NULL, NULL, &start, &started)) {
        service_error = GetLastError();
        say_error(L"cannot start ", command);
        return NOT_FOUND;
    }
    if (!AssignProcessToJobObject(job, started.hProcess)) {
        service_error = GetLastError();
        say_error(L"cannot put the service into a job", NULL);
        TerminateProcess(started.hProcess, NO_START);
        return NO_START;
    }
    ResumeThread(started.hThread);
    CloseHandle(started.hThread);
    /* So that the ends of the pipes are the service's alone. */
    CloseHandle(start.hStdInput);
    CloseHandle(start.hStdOutput);
    CloseHandle(start.hStdError);

    see_to_its_end(started.hProcess);
    GetExitCodeProcess(started.hProcess, &code);
    if (code == STILL_ACTIVE) code = KILLED;
    TerminateJobObject(job, KILLED); /* what it has left running */
    for (i = 0; i < 2; i++)
        if (pumps[i].thread) WaitForSingleObject(pumps[i].thread, PUMPS_MS);
    return code;
}

static void WINAPI service_main(DWORD count, WCHAR **arguments) {
    DWORD code;
    (void)count, (void)arguments;
    status_handle = advapi.handle(service_name, on_control, NULL);
    event_log = advapi.open_log(NULL, service_name);
    tell_manager(SERVICE_START_PENDING);
    code = run();
    say(code ? EVENTLOG_ERROR_TYPE : EVENTLOG_INFORMATION_TYPE, L"the service has ended with status", NULL, &code);
    if (service_error) status.dwWin32ExitCode = service_error;
    else if (code) {
        status.dwWin32ExitCode = ERROR_SERVICE_SPECIFIC_ERROR;
        status.dwServiceSpecificExitCode = code;
    }
    SetEvent(ended_event);
    tell_manager(SERVICE_STOPPED);
}

/* ---- the command line ------------------------------------------------------------------------------------------------ */

/* The end of the token at `text`; quotes group, and nothing is escaped. */
static WCHAR *end_of_token(WCHAR *text) {
    BOOL quoted = FALSE;
    while (*text && (quoted || (*text != ' ' && *text != '\t')))
        if (*text++ == '"') quoted = !quoted;
    return text;
}

static WCHAR *after_space(WCHAR *text) {
    while (*text == ' ' || *text == '\t') text++;
    return text;
}

/* A copy of what follows the "=" of a token, without quotes. */
static WCHAR *value_of(const WCHAR *from, const WCHAR *to) {
    WCHAR *value = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, (SIZE_T)(to - from + 1) * sizeof *value);
    WCHAR *at = value;
    if (!value) return NULL;
    while (from < to && *from != '=') from++;
    while (from < to && *++from)
        if (from < to && *from != '"') *at++ = *from;
    return value;
}

static BOOL take_grace(const WCHAR *digits) {
    DWORD seconds = 0;
    const WCHAR *at;
    for (at = digits; *at >= '0' && *at <= '9' && seconds <= MOST_GRACE; at++) seconds = seconds * 10 + (DWORD)(*at - '0');
    if (at == digits || *at || seconds > MOST_GRACE) return FALSE;
    grace_ms = seconds * 1000;
    return TRUE;
}

static BOOL wrong_usage(void) {
    say(EVENTLOG_ERROR_TYPE, L"usage: iocpd-launcher [--grace=SECONDS] [--log=FILE] [--service=NAME] [--] PROGRAM ARGUMENTS...",
        NULL, NULL);
    return FALSE;
}

/* Takes the options; `command` is what follows them, as it stands. */
static BOOL take_command_line(void) {
    command = after_space(end_of_token(GetCommandLineW()));
    for (;;) {
        WCHAR *token = command, *text = token, *end = end_of_token(token), *value;
        if (*text == '"') text++; /* "--log=C:\a b" */
        if (!starts_with(text, L"--")) break;
        command = after_space(end);
        if (end - token == 2) break;
        if (!(value = value_of(text, end))) return FALSE;
        if (starts_with(text, L"--grace=")) {
            if (!take_grace(value)) return wrong_usage();
        } else if (starts_with(text, L"--log=") && *value && length_of(value) < LONG_PATH - 4) log_path = value;
        else if (starts_with(text, L"--service=") && *value && length_of(value) <= 256) service_name = value;
        else return wrong_usage();
    }
    return *command ? TRUE : wrong_usage();
}

/* Where the system begins; there is no C runtime before it. */
void __stdcall entry(void) {
    DWORD code = NO_START;
    if (!take_command_line()) ExitProcess(NO_START);
    /* No windows that ask for a disk; the service inherits it. SEM_NOGPFAULTERRORBOX, which a job's DIE_ON_UNHANDLED_EXCEPTION
     * sets as well, would switch off Windows Error Reporting and so the dumps of crashes: the service itself wants no window. */
    SetErrorMode(SEM_FAILCRITICALERRORS);
    if (!make_events_and_job()) {
        say_error(L"no resources", NULL);
        ExitProcess(NO_START);
    }
    /* Of all processes this one is told of a shutdown first, and the system waits for it. */
    SetProcessShutdownParameters(0x3FF, SHUTDOWN_NORETRY);
    SetConsoleCtrlHandler(NULL, FALSE); /* a parent may have switched Ctrl-C off */
    SetConsoleCtrlHandler(on_console_event, TRUE);
    if (!service_name) {
        code = run();
        SetEvent(ended_event);
        ExitProcess(code);
    }
    SERVICE_TABLE_ENTRYW table[] = {{service_name, service_main}, {NULL, NULL}};
    if (!load_advapi()) say_error(L"cannot load advapi32.dll", NULL);
    else if (!advapi.dispatch(table)) say_error(L"--service is for the service control manager alone", NULL);
    else code = 0;
    ExitProcess(code);
}
