package index

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestSchedules survive the loss of the index.
func TestSchedules(t *testing.T) {
	dir := t.TempDir()
	x := reopen(t, dir)
	want := Schedule{ID: "1", Refs: []string{"docker.io/library/demo:1"}, Platforms: []string{"all"}, Every: 3600, Since: time.Unix(1, 0).UTC(), Last: time.Unix(2, 0).UTC()}
	if err := errors.Join(x.PutSchedule(want), x.PutSchedule(Schedule{ID: "2", Refs: []string{"a"}, Every: 1}), x.DeleteSchedule("2")); err != nil {
		t.Fatal(err)
	}
	if err := x.PutSchedule(Schedule{ID: "3", Every: 1}); err == nil {
		t.Error("a schedule of nothing was written")
	}
	if err := x.PutSchedule(Schedule{ID: "3", Refs: []string{strings.Repeat("x", maxLine)}, Every: 1}); !errors.Is(err, ErrTooLong) {
		t.Errorf("%v", err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	lose(t, dir)
	x = reopen(t, dir)
	var all []Schedule
	for s, err := range x.Schedules() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if !reflect.DeepEqual(all, []Schedule{want}) {
		t.Errorf("%+v", all)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}
