/* manager.exe NAME COMMAND_LINE: makes a service of it, starts it, and prints each state that the service control manager sees;
 * a line on stdin has it stopped. Ends when it has stopped, and removes it. */
#include <windows.h>

#include <stdio.h>

static SC_HANDLE service;

static DWORD WINAPI stop_on_line(LPVOID context) {
    SERVICE_STATUS status;
    (void)context;
    if (getchar() != EOF && !ControlService(service, SERVICE_CONTROL_STOP, &status))
        printf("cannot stop: error %lu\n", GetLastError());
    return 0;
}

int wmain(int count, WCHAR **words) {
    SC_HANDLE manager = OpenSCManagerW(NULL, NULL, SC_MANAGER_ALL_ACCESS);
    SERVICE_STATUS_PROCESS status;
    DWORD needed, state = 0, most = 0, polls;
    static const char *names[] = {"?", "Stopped", "StartPending", "StopPending", "Running"};
    if (count != 3) return 2;
    setvbuf(stdout, NULL, _IONBF, 0);
    service = CreateServiceW(manager, words[1], words[1], SERVICE_ALL_ACCESS, SERVICE_WIN32_OWN_PROCESS, SERVICE_DEMAND_START,
                             SERVICE_ERROR_NORMAL, words[2], NULL, NULL, NULL, NULL, NULL);
    if (!service) {
        printf("cannot create: error %lu\n", GetLastError());
        return 3;
    }
    if (!StartServiceW(service, 0, NULL)) {
        printf("cannot start: error %lu\n", GetLastError());
        DeleteService(service);
        return 4;
    }
    CreateThread(NULL, 0, stop_on_line, NULL, 0, NULL);
    for (polls = 0; polls < 3000 && state != SERVICE_STOPPED; polls++) {
        if (!QueryServiceStatusEx(service, SC_STATUS_PROCESS_INFO, (BYTE *)&status, sizeof status, &needed)) break;
        if (status.dwCheckPoint > most) most = status.dwCheckPoint;
        if (status.dwCurrentState != state) {
            if (state == SERVICE_START_PENDING || state == SERVICE_STOP_PENDING) printf("  checkpoints: %lu\n", most);
            most = 0;
            state = status.dwCurrentState;
            printf("%s\n", names[state < 5 ? state : 0]);
        }
        Sleep(20);
    }
    printf("error %lu, status %lu\n", status.dwWin32ExitCode, status.dwServiceSpecificExitCode);
    DeleteService(service);
    ExitProcess(0);
}
