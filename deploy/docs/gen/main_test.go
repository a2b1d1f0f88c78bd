package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDocumentsAreUpToDate(t *testing.T) {
	documents, err := tables()
	if err != nil {
		t.Fatal(err)
	}
	for name, tables := range documents {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		want, err := insert(string(text), tables)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if string(text) != want {
			t.Errorf("%s differs from the code: run go generate ./deploy/docs/gen", name)
		}
	}
}

func TestCell(t *testing.T) {
	for text, want := range map[string]string{
		"a '*:v*=immutable' b":      "a `*:v*=immutable` b",
		"the registry's, machine's": "the registry's, machine's",
		"as HUBCAP_TAG_TTL says":    "as `HUBCAP_TAG_TTL` says",
		"a | b":                     `a \| b`,
	} {
		if got := cell(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestInsertNeedsTheLines(t *testing.T) {
	if _, err := insert("no lines\n", map[string]string{"metrics": "table"}); err == nil {
		t.Error("no error")
	}
}
