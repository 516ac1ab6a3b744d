/* command.h: what the API asks of the workers: sends, kicks, labels, bans, round trips, barriers. command.c has both ends: the
 * functions of engine.h, which make a ticket and post its parts, and what a worker does with a part.
 */
#ifndef IOCPD_COMMAND_H
#define IOCPD_COMMAND_H

struct worker;
struct message;

/* The worker's part of a command has come out of its inbox. */
void command_do(struct worker *worker, struct message *message);
/* The worker has stopped: nothing is done, and whoever waits is told. */
void command_abandon(struct message *message);

#endif
