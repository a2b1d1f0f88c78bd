package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReadmeHasEveryVariable holds the README's table against the code, row
// by row; the message is the table as it should be.
func TestReadmeHasEveryVariable(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, v := range Variables() {
		def := v.Default
		if def != "" && !strings.Contains(def, " ") {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", v.Name, def, v.Means)
	}
	if !strings.Contains(string(readme), "|---|---|---|\n"+table.String()+"\n") {
		t.Errorf("the README's table of variables should be:\n%s", table.String())
	}
}
