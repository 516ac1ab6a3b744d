/* seam.h: all that the simulation does to the engine's sources, which are compiled as they are (build.py includes this before the
 * first line of each). Everything else of the simulated world is put in their place by the linker: platform.h's functions.
 *
 * Before each atomic operation another thread may get its turn, so a race between two of them is a matter of the seed. And where
 * the engine looks for a driver of this system, it finds the simulated kernel.
 */
#ifndef SIMULATION_SEAM_H
#define SIMULATION_SEAM_H

extern int simulation_points; /* until the next change of threads */
void simulation_switch(void);

#define SIMULATION_POINT (--simulation_points > 0 ? (void)0 : simulation_switch())
#define __atomic_load_n(...) (SIMULATION_POINT, __atomic_load_n(__VA_ARGS__))
#define __atomic_store_n(...) (SIMULATION_POINT, __atomic_store_n(__VA_ARGS__))
#define __atomic_fetch_add(...) (SIMULATION_POINT, __atomic_fetch_add(__VA_ARGS__))
#define __atomic_exchange_n(...) (SIMULATION_POINT, __atomic_exchange_n(__VA_ARGS__))
#define __atomic_compare_exchange_n(...) (SIMULATION_POINT, __atomic_compare_exchange_n(__VA_ARGS__))

#define port_epoll port_sim
#define port_uring port_sim

#endif
