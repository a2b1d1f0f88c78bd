package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/jobs"
	"hubcap/proxy/units"
)

// lookEvery is how often a job is looked at that is waited for.
const lookEvery = 500 * time.Millisecond

func printJobs(o *output, a api.Jobs) {
	heading := []string{"ID", "KIND", "STATE", "DONE", "LEFT", "SINCE", "WHAT"}
	tabulate(o, "There was no job since the start.", heading, a.Jobs, func(j api.Job) []string {
		return []string{j.ID, string(j.Kind), string(j.State), units.BytesOf(j.Done, j.Total), left(j.Left), o.Ago(j.Since), j.What}
	})
}

// follow shows the progress of a job until it is over, and then its results. A
// user who does not wait for it leaves it running.
func (p *program) follow(ctx context.Context, j api.Job) error {
	if p.detach {
		return p.say("%s", j.ID)
	}
	bar := p.newProgress()
	defer bar.end()
	shown := ""
	for {
		now, document, err := ask[api.Job](ctx, p, http.MethodGet, "jobs/"+j.ID, nil, nil)
		if ctx.Err() != nil {
			return failed(Failed, "the job goes on; hubcap cancel %s ends it", j.ID)
		}
		if err != nil {
			return err
		}
		if text := strings.TrimSpace(string(document)); p.asJSON && text != shown {
			shown = text
			_, _ = fmt.Fprintln(p.Stdout, text)
		}
		bar.set(now.Done, now.Total, now.Rate, now.Left)
		if now.State.Over() {
			bar.end()
			return p.ended(now)
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
		if err := p.print(func(o *output) { printResults(o, j) }); err != nil {
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

func printResults(o *output, j api.Job) {
	var rows [][]string
	right := 0
	for _, i := range j.Items {
		if i.OK {
			right++
		}
		rows = append(rows, []string{i.Name, i.Result, units.Bytes(i.Bytes)})
	}
	o.table(nil, rows)
	line := fmt.Sprintf("%d of %d, %s", right, len(j.Items), units.Bytes(j.Done))
	for _, l := range j.Pulls {
		line += fmt.Sprintf("; %s of %s used", units.Count(l.Used, "pull"), l.Upstream)
		if l.Left >= 0 {
			line += fmt.Sprintf(", %d left", l.Left)
		}
	}
	o.line("%s", line)
}

func (p *program) cancel() *cobra.Command {
	cmd := p.command("cancel JOB", "End a job; what it has done stays", 1, 1, func(ctx context.Context, args []string) error {
		j, _, err := ask[api.Job](ctx, p, http.MethodDelete, "jobs/"+args[0], nil, nil)
		if err != nil {
			return err
		}
		return printAnswer(p, j, func(o *output, j api.Job) { o.line("%s %s", j.ID, j.State) })
	})
	cmd.ValidArgsFunction = p.completeJobs
	return cmd
}

func (p *program) schedules() *cobra.Command {
	var id string
	cmd := p.command("schedules", "List what is fetched again and again, or end one of these", 0, 0, func(ctx context.Context, _ []string) error {
		method, path := http.MethodGet, "schedules"
		if id != "" {
			method, path = http.MethodDelete, "schedules/"+id
		}
		all, _, err := ask[api.Schedules](ctx, p, method, path, nil, nil)
		if err != nil {
			return err
		}
		return printAnswer(p, all, printSchedules)
	})
	cmd.Flags().StringVar(&id, "delete", "", "end the schedule of this `id`; what it fetches now goes on")
	return cmd
}

func printSchedules(o *output, a api.Schedules) {
	heading := []string{"ID", "EVERY", "NEXT", "LAST JOB", "IMAGES"}
	tabulate(o, "Nothing is fetched regularly. hubcap warm --every 24h REF has that done.", heading, a.Schedules, func(s api.Schedule) []string {
		return []string{s.ID, units.Seconds(s.Every), o.Clock(s.Next), cmp.Or(s.Job, "-"), strings.Join(s.Refs, " ")}
	})
}

// completeJobs offers the jobs that are not over.
func (p *program) completeJobs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return candidates(p, "jobs", nil, func(a api.Jobs) (names []string) {
		for _, j := range a.Jobs {
			if !j.State.Over() {
				names = append(names, j.ID+"\t"+plain(j.What))
			}
		}
		return names
	})
}
