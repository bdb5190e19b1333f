#pragma once
// The rows of the table of tasks, one function for each; the family's file explains it.

#include "eval/tasks/task.h"

namespace cachette {

Task KvTask();
Task NiahTask();
Task PathTask();
Task WalkTask();
Task TsvTask();

Task NiahSingle1Task();
Task NiahSingle2Task();
Task NiahSingle3Task();
Task NiahMultikey1Task();
Task NiahMultikey2Task();
Task NiahMultikey3Task();

}  // namespace cachette
