package site

import (
	"testing"

	"hubcap/e2e/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }
