module kernelagent

go 1.23
