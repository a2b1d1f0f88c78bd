package site

import (
	"testing"

	"go.uber.org/goleak"

	"hubcap/e2e/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testkit.Main{M: m}) }
