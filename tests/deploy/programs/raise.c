/* raise.exe [--console] PROGRAM ARGUMENTS...: starts PROGRAM, and raises in it each console event whose number is read from
 * stdin (0 CTRL_C, 1 CTRL_BREAK, 2 CTRL_CLOSE, 5 CTRL_LOGOFF, 6 CTRL_SHUTDOWN). Returns its exit code; ends it when stdin ends
 * with a line "kill". With --console its output is a hidden console's. */
#include <windows.h>

#include <stdio.h>
#include <string.h>

static HANDLE program;

/* What the console host does: it runs CtrlRoutine in the program. System libraries lie at the same address everywhere. */
static DWORD WINAPI raise_all(LPVOID context) {
    LPTHREAD_START_ROUTINE routine =
        (LPTHREAD_START_ROUTINE)(void *)GetProcAddress(GetModuleHandleW(L"kernelbase.dll"), "CtrlRoutine");
    char line[16];
    (void)context;
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "kill", 4)) TerminateProcess(program, 99);
        else CreateRemoteThread(program, NULL, 0, routine, (void *)(ULONG_PTR)atoi(line), 0, NULL);
    }
    return 0;
}

int wmain(int count, WCHAR **arguments) {
    STARTUPINFOW start = {.cb = sizeof start};
    PROCESS_INFORMATION started;
    BOOL console = count > 1 && !wcscmp(arguments[1], L"--console");
    WCHAR *command = wcsstr(GetCommandLineW(), arguments[console ? 2 : 1]);
    DWORD code;
    if (command[-1] == '"') command--;
    if (!console) {
        start.dwFlags = STARTF_USESTDHANDLES;
        start.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
        start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    }
    if (!CreateProcessW(NULL, command, NULL, NULL, !console, CREATE_NO_WINDOW, NULL, NULL, &start, &started)) {
        fprintf(stderr, "raise: cannot start %ls: error %lu\n", command, GetLastError());
        return 250;
    }
    program = started.hProcess;
    CreateThread(NULL, 0, raise_all, NULL, 0, NULL);
    WaitForSingleObject(program, INFINITE);
    GetExitCodeProcess(program, &code);
    fflush(NULL);
    ExitProcess(code);
}
