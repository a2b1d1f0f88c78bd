package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/jobs"
)

// lookEvery is how often a job is looked at that is waited for.
const lookEvery = 500 * time.Millisecond

func (p *program) jobs() *cobra.Command {
	return view(p, "jobs", "List long work: what runs, and what has ended", func(w io.Writer, a api.Jobs) error {
		if len(a.Jobs) == 0 {
			_, err := fmt.Fprintln(w, "There was no job since the start.")
			return err
		}
		t := newTable(w, "ID", "KIND", "STATE", "DONE", "LEFT", "SINCE", "WHAT")
		for _, j := range a.Jobs {
			left := "-"
			if j.Left != nil {
				left = seconds(*j.Left)
			}
			t.row(j.ID, string(j.Kind), string(j.State), sizeOf(j.Done, j.Total), left, p.ago(j.Since), j.What)
		}
		return t.end()
	})
}

// follow shows the progress of a job until it is over, and then its results. A
// user who does not wait for it leaves it running.
func (p *program) follow(ctx context.Context, b *box, j api.Job) error {
	if p.detach {
		_, err := fmt.Fprintln(p.Stdout, j.ID)
		return err
	}
	bar := p.newProgress()
	shown := ""
	for {
		document, err := b.document(ctx, http.MethodGet, "jobs/"+j.ID, nil, nil)
		if ctx.Err() != nil {
			bar.end()
			return failed(Failed, "the job goes on; hubcap cancel %s ends it", j.ID)
		}
		if err == nil {
			j = api.Job{}
			err = b.decode(document, &j)
		}
		if err != nil {
			bar.end()
			return err
		}
		if text := strings.TrimSpace(string(document)); p.asJSON && text != shown {
			shown = text
			_, _ = fmt.Fprintln(p.Stdout, text)
		}
		bar.set(j.Done, j.Total, j.Rate, j.Left)
		if j.State.Over() {
			bar.end()
			return p.ended(j)
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
	}
}

// ended shows how a job has ended.
func (p *program) ended(j api.Job) error {
	if !p.asJSON {
		if err := p.results(j); err != nil {
			return err
		}
	}
	switch j.State {
	case jobs.Done:
		return nil
	case jobs.InPart:
		return told(InPart, "some of it failed")
	}
	return failed(Failed, "%s %s: %s", j.Kind, j.State, plain(strings.Join(j.Errors, "; ")))
}

func (p *program) results(j api.Job) error {
	t := newTable(p.Stdout)
	right := 0
	for _, i := range j.Items {
		if i.OK {
			right++
		}
		t.row(i.Name, i.Result, size(i.Bytes))
	}
	if err := t.end(); err != nil {
		return err
	}
	line := fmt.Sprintf("%d of %d, %s", right, len(j.Items), size(j.Done))
	for _, l := range j.Pulls {
		line += fmt.Sprintf("; %s of %s used", count(l.Used, "pull"), l.Upstream)
		if l.Left >= 0 {
			line += fmt.Sprintf(", %d left", l.Left)
		}
	}
	_, err := fmt.Fprintln(p.Stdout, plain(line))
	return err
}

func (p *program) cancel() *cobra.Command {
	return &cobra.Command{
		Use: "cancel JOB", Short: "End a job; what it has done stays", Args: takes(1, 1),
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := p.find()
			if err != nil {
				return err
			}
			j, err := ask[api.Job](cmd.Context(), b, http.MethodDelete, "jobs/"+args[0], nil, nil)
			if err != nil {
				return err
			}
			if p.asJSON {
				return p.printJSON(j)
			}
			_, err = fmt.Fprintln(p.Stdout, plain(j.ID+" "+string(j.State)))
			return err
		},
	}
}

func (p *program) schedules() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use: "schedules", Short: "List what is fetched again and again, or end one of these", Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if id == "" {
				_, err := show(cmd.Context(), p, "schedules", nil, p.printSchedules)
				return err
			}
			b, err := p.find()
			if err != nil {
				return err
			}
			left, err := ask[api.Schedules](cmd.Context(), b, http.MethodDelete, "schedules/"+id, nil, nil)
			switch {
			case err != nil:
				return err
			case p.asJSON:
				return p.printJSON(left)
			}
			return p.printSchedules(p.Stdout, left)
		},
	}
	cmd.Flags().StringVar(&id, "delete", "", "end the schedule of this `id`; what it fetches now goes on")
	return cmd
}

func (p *program) printSchedules(w io.Writer, a api.Schedules) error {
	if len(a.Schedules) == 0 {
		_, err := fmt.Fprintln(w, "Nothing is fetched regularly. hubcap warm --every 24h REF has that done.")
		return err
	}
	t := newTable(w, "ID", "EVERY", "NEXT", "LAST JOB", "IMAGES")
	for _, s := range a.Schedules {
		t.row(s.ID, seconds(s.Every), p.clock(s.Next), cmp.Or(s.Job, "-"), strings.Join(s.Refs, " "))
	}
	return t.end()
}
