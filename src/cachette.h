#pragma once
// The public interface of the library: load an engine, make a recipe, open a session, generate.

#include "engine/engine.h"
#include "engine/machine.h"
#include "engine/version.h"
