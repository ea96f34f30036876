// SPDX-License-Identifier: Apache-2.0
// main_test.cc: the main function of all native tests.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
